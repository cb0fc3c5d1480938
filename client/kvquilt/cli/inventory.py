"""`kvquilt inventory`: what the cache nodes have, for whom, how it is used, and what it saved."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from kvquilt.cli.options import ConfigFile, Json, Nodes, Set, overrides
from kvquilt.cli.output import err, explained, out, plain, print_json, size
from kvquilt.cli.settings import load
from kvquilt.inventory.parquet import InventoryFile
from kvquilt.inventory.summary import Summary, Sums
from kvquilt.inventory.types import InventoryRow
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc.nodes import open_nodes


def inventory(
    parquet: Annotated[
        Path | None, typer.Option("--parquet", help="Write a row for each object to this file; needs pyarrow.")
    ] = None,
    namespace: Annotated[
        str, typer.Option("--namespace", help="Only this one. Default: all that the caller may read as its own.")
    ] = "",
    documents: Annotated[
        int, typer.Option("--documents", min=0, help="How many documents are shown, the largest first.")
    ] = 20,
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds that listing may take.")] = 600.0,
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show what the cache nodes have: for whom, how big, how used, and what it saved.

    Calls the nodes as the router does (`router.nodes`, `router.node_credentials`). A caller that may not see all is
    told of its own namespaces. All nodes must answer, or nothing is written.
    """
    with explained(as_json):
        settings = load(config, overrides(flags, router__nodes=node)).settings.router
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with (
            Progress(*columns, console=err, disable=as_json, transient=True) as bar,
            contextlib.nullcontext() if parquet is None else InventoryFile(parquet) as file,
        ):
            summary = asyncio.run(_listed(settings, namespace, deadline, file, bar))
        if as_json:
            _print_json(summary)
        else:
            _print(summary, documents)
            if parquet is not None:
                out.print(f"{summary.total.objects} rows are in {parquet}", markup=False)


async def _listed(
    settings: RouterSettings, namespace: str, deadline: float, file: InventoryFile | None, bar: Progress
) -> Summary:
    summary = Summary()
    task = bar.add_task("listing", total=None)
    credentials = settings.node_credentials
    async with (
        open_nodes(settings.nodes, settings.pool_options(), credentials=credentials) as nodes,
        aclosing(nodes.objects.pages(namespace, deadline=deadline)) as pages,
    ):
        async for name, page in pages:
            for item in page.objects:
                row = InventoryRow.of(name, page.store, item)
                summary.add(row)
                if file is not None:
                    file.add(row)
            bar.update(task, description=f"{summary.total.objects} objects; listing {name}")
    return summary


def _print_json(summary: Summary) -> None:
    """A line for each namespace and model, one for each document, and one for all."""
    for (namespace, model), sums in sorted(summary.models.items()):
        print_json({"namespace": namespace, "model_fingerprint": model} | plain(sums))
    for (namespace, document), sums in sorted(summary.documents.items()):
        print_json({"namespace": namespace, "document": document} | plain(sums))
    print_json({"total": summary.total})


def _print(summary: Summary, documents: int) -> None:
    models = {f"{namespace} {model[:16]}...": sums for (namespace, model), sums in sorted(summary.models.items())} | {
        "all": summary.total
    }
    _print_table("namespace and model", models)
    largest = sorted(summary.documents.items(), key=lambda item: (-item[1].stored_bytes, item[0]))
    if shown := {f"{namespace} {name}": sums for (namespace, name), sums in largest[:documents]}:
        _print_table("namespace and document", shown)
        if len(shown) < len(largest):
            out.print(f"the largest {len(shown)} of {len(largest)} documents; --documents shows more")


def _print_table(what: str, rows: Mapping[str, Sums]) -> None:
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column(what, overflow="fold")
    for name in ("objects", "tokens", "bytes", "uses", "saved", "idle"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, sums in rows.items():
        figures = (str(sums.objects), str(sums.tokens), size(sums.stored_bytes), str(sums.uses))
        idle = _span(max(0.0, time.time() - sums.last_used)) if sums.objects else ""
        table.add_row(Text(name), *figures, _span(sums.saved_seconds), idle)
    out.print(table)
    out.print()


def _span(seconds: float) -> str:
    """A time for people."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.1f} s"
