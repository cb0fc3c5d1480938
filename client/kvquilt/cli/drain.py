"""`kvquilt drain`: takes a cache node out of service without a lost request."""

import asyncio
from dataclasses import asdict
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from kvquilt.cli.options import ConfigFile, Json, Set
from kvquilt.cli.output import INTERRUPTED, PARTIAL, err, explained, out, print_json, size
from kvquilt.cli.settings import KvquiltSettings, load
from kvquilt.draining import drained
from kvquilt.errors import BadRequestError
from kvquilt_rpc.node_control import DrainAction, DrainState, node_control
from kvquilt_rpc.nodes.membership import parse_address

_PROBES = 3
"""Health probes of a router, which takes each of them at most as long as it waits between two."""


def drain(
    node: Annotated[str, typer.Argument(help="The cache node, host:port.")],
    undo: Annotated[bool, typer.Option("--undo", help="Let it serve again.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End its process when nothing runs there any more.")] = False,
    timeout: Annotated[float, typer.Option(min=0, help="Seconds to wait at most. It goes on draining then.")] = 300.0,
    quiet: Annotated[
        float | None,
        typer.Option(min=0, help="Seconds without a call that must have passed. Default: 3 x router.health_seconds."),
    ] = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Take a cache node out of service without a lost request.

    Routers send it no new calls; what runs finishes, what waits in its write queue goes to its store. Then it may be
    stopped. Called as router.node_credentials, which must have all namespaces. Exit code 7 if it takes too long.
    """
    with explained(as_json):
        if undo and stop:
            raise BadRequestError("expected --undo or --stop; got both")
        settings = load(config, flags or []).settings
        wait = _PROBES * settings.router.health_seconds if quiet is None else quiet
        if undo:
            state = asyncio.run(_act(settings, node, DrainAction.UNDO))
            _tell(node, state, "serving", "serves again", as_json)
            return
        state, done = _drained(settings, node, wait, timeout, as_json)
        if not done:
            words = f"may NOT be stopped yet: {_left(state, wait)}. It goes on draining; {_back(node)}"
            _tell(node, state, "draining", words, as_json)
            raise typer.Exit(PARTIAL)
        if not stop:
            _tell(node, state, "drained", f"may be stopped; {_back(node)}", as_json)
            return
        _tell(node, asyncio.run(_act(settings, node, DrainAction.STOP)), "stopping", "ends", as_json)


def _drained(
    settings: KvquiltSettings, node: str, quiet: float, timeout: float, as_json: bool
) -> tuple[DrainState, bool]:
    last: list[DrainState] = []
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True, disable=as_json) as bar:
        task = bar.add_task(f"{node} is asked", total=None)

        def told(state: DrainState) -> None:
            if as_json and (not last or _work(state) != _work(last[0])):
                print_json({"node": node, "result": "draining", **asdict(state)})
            last[:] = [state]
            bar.update(task, description=f"{node} drains: {_left(state, quiet)}")

        async def called() -> tuple[DrainState, bool]:
            async with node_control(parse_address(node).text, settings.router.node_credentials) as control:
                deadline = settings.client.deadline
                return await drained(control, quiet=quiet, patience=timeout, deadline=deadline, told=told)

        try:
            return asyncio.run(called())
        except KeyboardInterrupt:
            how = f"drains: {_left(last[0], quiet)}" if last else "may drain"
            err.print(f"interrupted; {node} {how}. {_back(node)}", markup=False)
            raise typer.Exit(INTERRUPTED) from None


def _work(state: DrainState) -> tuple[int, int]:
    return state.running_calls, state.queue_entries


async def _act(settings: KvquiltSettings, node: str, action: DrainAction) -> DrainState:
    async with node_control(parse_address(node).text, settings.router.node_credentials) as control:
        return await control.drain(action, deadline=settings.client.deadline)


def _left(state: DrainState, quiet: float) -> str:
    waits = f"{state.queue_entries} writes and deletes ({size(state.queue_bytes)}) wait for the store"
    seconds = f"quiet for {state.quiet_seconds:.1f} of {quiet:.1f} s"
    return f"{state.running_calls} calls run, {waits}, {seconds}"


def _back(node: str) -> str:
    return f"`kvquilt drain {node} --undo` lets it serve again"


def _tell(node: str, state: DrainState, result: str, words: str, as_json: bool) -> None:
    if as_json:
        print_json({"node": node, "result": result, **asdict(state)})
    else:
        out.print(f"{node} {words}", markup=False)
