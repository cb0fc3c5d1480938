"""`kvquilt doctor`: looks before you start, or at what is running; changes nothing."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from pydantic import SecretStr
from rich.progress import Progress, SpinnerColumn, TextColumn

from kvquilt.checks import Check, Outcome
from kvquilt.cli.checks import print_checks
from kvquilt.cli.options import ConfigFile, Json, Nodes, Router, Set, overrides
from kvquilt.cli.output import err, explained, print_json
from kvquilt.cli.settings import KvquiltSettings, Loaded, leaves, load
from kvquilt.doctoring import CHECKS, Diagnosis, Part, Patient, diagnosed
from kvquilt.doctoring.run import CONFIGURATION
from kvquilt.errors import KvquiltError
from kvquilt_router.checking import check_settings
from kvquilt_rpc.authentication import Authenticator
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.security import Credentials

_EXPECTED = "settings that can be used"


def doctor(
    part: Annotated[
        list[Part] | None,
        typer.Option(help="What runs on this machine, or will: node, router, client. Repeatable. Default: all."),
    ] = None,
    before_start: Annotated[
        bool, typer.Option("--before-start", help="Router and nodes do not run yet: look at everything else.")
    ] = False,
    patience: Annotated[float, typer.Option(min=0.1, help="Seconds that looking at one address may take.")] = 5.0,
    router: Router = None,
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Look at an installation, before it is started or while it runs, and say what is wrong and what to do.

    Settings, files, addresses, TLS, clocks, rights in stores, room on volumes and in memory, formats, nodes' shares.
    It changes nothing: in stores it tries its rights on names of its own. Exit code 1 if a check failed.
    """
    with explained(as_json):
        named = overrides(flags, client__router=router, router__nodes=node)
        found = _found(config, named, frozenset(part or Part), not before_start, patience, as_json)
        if as_json:
            print_json(found)
        else:
            print_checks("kvquilt doctor", found.checks)
        if not found.ok:
            raise typer.Exit(1)


def _found(
    config: Path | None, flags: list[str], parts: frozenset[Part], running: bool, patience: float, as_json: bool
) -> Diagnosis:
    try:
        loaded = load(config, flags)
        _check(loaded.settings, parts)
    except KvquiltError as error:
        failed = Check(CONFIGURATION, Outcome.FAILED, _EXPECTED, f"{error.reason}: {error}", "`kvquilt config show`")
        return Diagnosis((failed,), ok=False)
    sources = {source for source in loaded.sources.values() if source != "default"}
    good = Check(CONFIGURATION, Outcome.PASSED, _EXPECTED, f"from {', '.join(sorted(sources)) or 'defaults'}", "")
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=err, transient=True, disable=as_json) as bar:
        task = bar.add_task("", total=len(CHECKS))
        patient = _patient(loaded, parts, running, patience)
        made = asyncio.run(diagnosed(patient, lambda name: bar.update(task, description=name)))
    return Diagnosis((good, *made.checks), made.ok)


def _check(settings: KvquiltSettings, parts: frozenset[Part]) -> None:
    """Refuse what no part could start with.

    Raises:
        KvquiltError: as the parts themselves.
    """
    if Part.ROUTER in parts:
        check_settings(settings.router)
        for target in settings.router.nodes:
            _check_channel(target.partition("=")[0], settings.router.node_credentials)
    if Part.NODE in parts:
        Authenticator(settings.node.security, settings.node.host)
    if Part.CLIENT in parts:
        _check_channel(settings.client.router, settings.client.credentials)


def _check_channel(target: str, credentials: Credentials) -> None:
    async def opened() -> None:
        await open_channel(target, credentials).close()

    asyncio.run(opened())


def _patient(loaded: Loaded, parts: frozenset[Part], running: bool, patience: float) -> Patient:
    settings = loaded.settings
    in_files = [name for name, _ in leaves() if Path(loaded.sources[name]).is_file() and _is_secret(settings, name)]
    file = Path(loaded.sources[in_files[0]]) if in_files else None
    return Patient(
        settings.node,
        settings.router,
        settings.client.router,
        settings.client.credentials,
        settings.client.deadline,
        parts,
        running,
        file,
        tuple(in_files),
        patience=patience,
    )


def _is_secret(settings: object, name: str) -> bool:
    for part in name.split("."):
        settings = getattr(settings, part)
    return isinstance(settings, SecretStr)
