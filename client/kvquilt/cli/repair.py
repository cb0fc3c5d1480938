"""`kvquilt repair`: brings the objects of a store and its index in line."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from kvquilt.cli.options import ConfigFile, Json, Set, overrides
from kvquilt.cli.output import PARTIAL, err, explained, out, plain, print_json, print_table
from kvquilt.cli.settings import load
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.opening import describe, open_parts
from kvquilt_cache_node.store.opening_sealed import Sealing
from kvquilt_cache_node.store.repair import Repair, Repaired
from kvquilt_codec.errors import BadRequestError


def repair(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the file store. Sets node.path.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing; say what would be done.")] = False,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Throw the index away first. No node may be running on it.")
    ] = False,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Rebuild what the index lost from the objects themselves; drop rows and objects that are good for nothing.

    Nodes that share the store through an index in Redis may go on meanwhile, except with --rebuild. May be interrupted
    and run again. Exit code 7 if something was left because a node is working on it.
    """
    with explained(as_json):
        settings = load(config, overrides(flags, node__path=data_dir)).settings.node
        if settings.store == "memory":
            raise BadRequestError("expected a store that outlives its process; got node.store=memory")
        if dry_run and rebuild:
            raise BadRequestError("expected --dry-run or --rebuild, which throws the index away; got both")
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=err, disable=as_json, transient=True) as bar:
            done = asyncio.run(_repair(settings, bar, dry_run=dry_run, rebuild=rebuild))
        if as_json:
            print_json(plain(done) | {"dry_run": dry_run})
        else:
            print_table("it would be done" if dry_run else "repaired", plain(done))
            if not (done.dropped or done.adopted or done.deleted or done.evicted):
                out.print("nothing to repair")
        if done.left:
            raise typer.Exit(PARTIAL)


async def _repair(settings: NodeSettings, bar: Progress, *, dry_run: bool, rebuild: bool) -> Repaired:
    task = bar.add_task("listing objects and rows", total=None)
    async with AsyncExitStack() as opened:
        sealing = await Sealing.open(settings)
        opened.push_async_callback(sealing.close)
        blobs, index = await open_parts(settings, anew=rebuild)
        opened.push_async_callback(blobs.close)
        opened.push_async_callback(index.close)
        capacity, lifetimes = int(settings.capacity), settings.rules.lifetimes
        repairing = Repair(blobs, index, capacity, sealing.describing(describe), lifetimes, dry_run=dry_run)
        return await repairing.run(
            lambda step, number, total: bar.update(task, description=step, completed=number, total=total)
        )
