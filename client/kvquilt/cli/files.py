"""`kvquilt config` and `model`: what needs no running server."""

from typing import Annotated

import typer
from rich.table import Table

from kvquilt.cli.options import ConfigFile, Json, Set
from kvquilt.cli.output import explained, out, print_json, print_table
from kvquilt.cli.settings import leaves, load, value_of
from kvquilt_router.checking import check_settings
from kvquilt_rpc.authentication import Authenticator

config_app = typer.Typer(no_args_is_help=True, help="Show and check the settings.")


@config_app.command("show")
def config_show(flags: Set = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show the effective settings, and where each came from."""
    with explained(as_json):
        loaded = load(config, flags or [])
        values = {name: (value_of(loaded.settings, name), text) for name, text in leaves()}
        if as_json:
            print_json({name: {"value": v, "source": loaded.sources[name]} for name, (v, _) in values.items()})
            return
        table = Table("setting", "value", "source", "meaning")
        for name, (value, text) in values.items():
            table.add_row(name, value, loaded.sources[name], text)
        out.print(table)


@config_app.command("check")
def config_check(flags: Set = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Check the settings: exit code 0 if they can be used, else 2 (3 if a file is missing) with the reason."""
    with explained(as_json):
        loaded = load(config, flags or [])
        check_settings(loaded.settings.router)
        Authenticator(loaded.settings.node.security, loaded.settings.node.host)
        if as_json:
            print_json({"ok": True})
        else:
            out.print("the settings can be used")


def model(
    name: Annotated[str, typer.Argument(help='"smollm2", or the folder of a Hugging Face model.')] = "smollm2",
    check: Annotated[
        bool, typer.Option("--check", help="Load it: measure whether its chunks can be moved, print its fingerprint.")
    ] = False,
    dtype: Annotated[str, typer.Option(help="Type to load it in: float32, bfloat16, float16 or auto.")] = "float32",
    as_json: Json = False,
) -> None:
    """Print the folder of a model; the demo model is converted into the cache on first use."""
    with explained(as_json):
        from kvquilt_router.engine.model import load_model, resolve

        rows: dict[str, object] = {"folder": str(resolve(name))}
        if check:
            loaded = load_model(name, dtype=dtype)
            traits = loaded.engine.traits
            rows |= {
                "fingerprint": loaded.fingerprint,
                "architecture": loaded.architecture,
                "layers": len(traits.rotates),
                "layers without RoPE": traits.rotates.count(False),
                "layers with a window": sum(window is not None for window in traits.windows),
                "context": traits.max_context,
                "data type": traits.layout.data_type.value,
            }
        if as_json:
            print_json({key.replace(" ", "_"): value for key, value in rows.items()})
        elif check:
            print_table(name, rows)
        else:
            out.print(rows["folder"])
