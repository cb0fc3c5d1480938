"""`kvquilt verify`: whether a running router and its nodes do what they should, and whether that pays there."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from kvquilt.aio import AsyncClient
from kvquilt.checks import Check, Outcome
from kvquilt.cli.checks import print_checks
from kvquilt.cli.options import ConfigFile, Json, Nodes, Set, overrides
from kvquilt.cli.output import INTERRUPTED, err, explained, out, print_json
from kvquilt.cli.settings import KvquiltSettings, load
from kvquilt.verifying import CHECKS, Options, Recommendation, Subject, Verification
from kvquilt.verifying import verify as verified
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.membership import parse_address
from kvquilt_rpc.security import Credentials

_WORDS = {
    Recommendation.ON: "on: loading is faster than computing, blended too",
    Recommendation.EXACT_ONLY: "on, for exact reuse; blending is not faster here, or not allowed",
    Recommendation.OFF: "OFF: computing is faster than loading here",
    Recommendation.UNKNOWN: "not known: times were not measured, or what came back was wrong",
}
_FORGOTTEN = "what was stored is forgotten"


def verify(
    router: Annotated[str | None, typer.Argument(help="The router, host:port. Default: client.router.")] = None,
    other_token: Annotated[
        Path | None, typer.Option(help="File with the token of another tenant: checks that it finds nothing.")
    ] = None,
    other_namespace: Annotated[
        str, typer.Option(help="Namespace that the other tenant acts in. Default: its token's first.")
    ] = "",
    node: Nodes = None,
    model: Annotated[str, typer.Option(help="Name or fingerprint, where the router serves several.")] = "",
    tokens: Annotated[int, typer.Option(help="Tokens of the documents whose loading is timed.")] = 1024,
    repeats: Annotated[int, typer.Option(help="Prompts of each kind that are timed; 0 times none.")] = 3,
    restart_command: Annotated[
        str, typer.Option(help="Shell command that restarts router and nodes: checks what is left afterwards.")
    ] = "",
    restart_seconds: Annotated[float, typer.Option(help="Until they must answer again.")] = 300.0,
    engine_url: Annotated[
        str, typer.Option(help="OpenAI-compatible server of the engine: its own prefill is what loading must beat.")
    ] = "",
    ttl: Annotated[
        float, typer.Option(help="Seconds after which what was stored is gone, should the check be killed.")
    ] = 900.0,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Check a running router end to end, and whether loading is faster than computing there.

    It stores a few documents of random text of its own, and forgets them, also when it is interrupted. Nothing else
    is touched. Exit code 1 if a check failed.
    """
    with explained(as_json):
        settings = load(config, overrides(flags, client__router=router, router__nodes=node)).settings
        options = Options(
            tokens=tokens,
            repeats=repeats,
            deadline=settings.client.deadline,
            ttl=ttl,
            model=model,
            restart_command=restart_command,
            restart_seconds=restart_seconds,
            engine_url=engine_url,
        )
        other = _other(settings.client.credentials, other_token, other_namespace)
        named = settings.router.nodes if node is not None else ()
        found = _run(settings, options, other, named, as_json)
        if as_json:
            print_json(found)
        else:
            _show(found)
        if not found.ok:
            raise typer.Exit(1)


def _other(own: Credentials, token_file: Path | None, namespace: str) -> Credentials | None:
    if token_file is None and not namespace:
        return None
    changed: dict[str, Any] = {"namespace": namespace}
    if token_file is not None:
        changed |= {"token": None, "token_file": token_file}
    return own.model_copy(update=changed)


def _run(
    settings: KvquiltSettings, options: Options, other: Credentials | None, nodes: tuple[str, ...], as_json: bool
) -> Verification:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, console=err, transient=True, disable=as_json) as bar:
        task = bar.add_task("", total=len(CHECKS) + 1)

        def begun(name: str) -> None:
            bar.update(task, description=name)

        checks: list[Check] = []

        def done(check: Check) -> None:
            checks.append(check)
            bar.advance(task)

        try:
            return asyncio.run(_verified(settings, options, other, nodes, begun, done))
        except (KeyboardInterrupt, asyncio.CancelledError):
            failed = bool(checks) and checks[-1].outcome is Outcome.FAILED
            err.print(
                "interrupted; " + (f"{checks[-1].got}: {checks[-1].advice}" if failed else _FORGOTTEN), markup=False
            )
            raise typer.Exit(INTERRUPTED) from None


async def _verified(
    settings: KvquiltSettings,
    options: Options,
    other: Credentials | None,
    nodes: tuple[str, ...],
    begun: Callable[[str], None],
    done: Callable[[Check], None],
) -> Verification:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with _subject(settings, options, other, nodes) as subject:
        return await verified(subject, begun, done)


@asynccontextmanager
async def _subject(
    settings: KvquiltSettings, options: Options, other: Credentials | None, nodes: tuple[str, ...]
) -> AsyncIterator[Subject]:
    target, own, to_nodes = settings.client.router, settings.client.credentials, settings.router.node_credentials
    async with AsyncExitStack() as opened:
        client = await opened.enter_async_context(AsyncClient(target, own))
        second = None if other is None else await opened.enter_async_context(AsyncClient(target, other))
        named = [NodeClient(parse_address(node).text, to_nodes) for node in nodes]
        for one in named:
            opened.push_async_callback(one.close)
        yield Subject(target, own, client, options, other, second, named, to_nodes)


def _show(found: Verification) -> None:
    print_checks(found.router, found.checks)
    if found.timing is not None:
        times = {
            "loaded, exact": found.timing.exact_s,
            "loaded, blended": found.timing.blended_s,
            "computed by the router, KV sent": found.timing.router_s,
            "computed by the router": found.timing.prefill_s,
            "computed by the engine": found.timing.engine_s,
        }
        words = "; ".join(f"{name} {seconds:.3f} s" for name, seconds in times.items() if seconds is not None)
        out.print(f"{found.timing.tokens} tokens, medians of {found.timing.repeats}: {words}")
    out.print(f"recommended: {_WORDS[found.recommendation]}")
