"""`kvquilt pin`, `unpin`: what eviction leaves alone."""

from typing import Annotated

import typer

from kvquilt.cli.calls import client_settings
from kvquilt.cli.options import ConfigFile, Json, Router, Set
from kvquilt.cli.output import explained, out, print_json, size
from kvquilt.receipts import PinReport
from kvquilt.sync import Client

Documents = Annotated[list[str], typer.Argument(help="Document ids; for files, the paths they were prefetched by.")]


def pin(
    documents: Documents,
    seconds: Annotated[
        float | None, typer.Option(help="The pin ends after so many seconds. Default: it does not.")
    ] = None,
    expiring: Annotated[
        bool, typer.Option("--expiring", help="TTLs go on. Default: they end with the pin at the earliest.")
    ] = False,
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Keep what is stored for documents now from eviction. They can be forgotten all the same."""
    with explained(as_json):
        settings = client_settings(config, flags, router)
        with Client(settings.router, settings.credentials) as client:
            report = client.pin(*documents, seconds=seconds, expiring=expiring, deadline=settings.deadline)
        _tell(report, "pinned", as_json=as_json)


def unpin(
    documents: Documents, router: Router = None, flags: Set = None, config: ConfigFile = None, as_json: Json = False
) -> None:
    """Pin what is stored for documents no more."""
    with explained(as_json):
        settings = client_settings(config, flags, router)
        with Client(settings.router, settings.credentials) as client:
            report = client.unpin(*documents, deadline=settings.deadline)
        _tell(report, "unpinned", as_json=as_json)


def _tell(report: PinReport, what: str, *, as_json: bool) -> None:
    if as_json:
        print_json(report)
        return
    out.print(f"{what} {report.objects} objects")
    if report.limit_bytes:
        out.print(f"pinned in all: {size(report.pinned_bytes)} of at most {size(report.limit_bytes)}")
