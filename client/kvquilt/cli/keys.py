"""`kvquilt keys`: keys that encrypt a node's store."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from kvquilt.cli.options import ConfigFile, Json, Set, overrides
from kvquilt.cli.output import explained, out, print_json
from kvquilt.cli.settings import load
from kvquilt_cache_node.store.opening_sealed import create_key, rewrap
from kvquilt_rpc.tokens import write_new

keys_app = typer.Typer(no_args_is_help=True, help="Make and change the keys that encrypt a node's store.")


@keys_app.command("new")
def new(
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it to this new file, for its owner only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a key. It is printed unless it is written to a file; nodes take it in `node.encryption_key_file`."""
    with explained(as_json):
        key = create_key()
        if output is not None:
            write_new(output, key.encode() + b"\n", 0o600)
        if as_json:
            print_json({"key": key} if output is None else {"file": str(output)})
        elif output is None:
            sys.stdout.write(key + "\n")
        else:
            out.print(f"{output} encrypts stores: keep it secret, and keep a copy", markup=False)


@keys_app.command("rotate")
def rotate(
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the file store. Sets node.path.")] = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Wrap the keys of all namespaces with the first of the configured keys. What is stored stays as it is.

    Nodes may go on meanwhile if all of them have that key too. Afterwards the other keys can be taken out.
    """
    with explained(as_json):
        settings = load(config, overrides(flags, node__path=data_dir)).settings.node
        wrapped, there = asyncio.run(rewrap(settings))
        if as_json:
            print_json({"wrapped": wrapped, "keys": there})
        else:
            out.print(f"wrapped {wrapped} of {there} keys anew")
