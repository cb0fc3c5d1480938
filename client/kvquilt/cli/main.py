"""The `kvquilt` command."""

import os
import sys
from typing import Annotated

import typer

from kvquilt.cli import (
    ask,
    calibration,
    calls,
    connect,
    doctor,
    drain,
    evaluation,
    files,
    forgetting,
    inspection,
    inventory,
    keys,
    pins,
    profiles,
    repair,
    servers,
    simulate,
    tokens,
    top,
    verify,
    why,
)
from kvquilt.cli.output import out
from kvquilt.demo import command as demo
from kvquilt_rpc.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    help="""A context cache for LLM serving: reuse the KV of texts anywhere in a prompt.

    Try it: `kvquilt demo`. Run it: `kvquilt serve`, then `kvquilt prefetch FILES`, then
    `kvquilt ask "..." --doc FILE --compare`.

    Exit codes: 0 done, 1 unforeseen, 2 bad request, 3 not found, 4 damaged or another model's,
    5 unavailable or too slow, 6 a limit is reached, 7 done in part, 8 not allowed, 130 interrupted.
    """,
)


@app.callback(invoke_without_command=True)
def version(
    show: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> None:
    """Options of the whole command."""
    if show:
        out.print(VERSION)
        raise typer.Exit


app.command(rich_help_panel="Run")(servers.serve)
app.command(rich_help_panel="Run")(servers.node)
app.command(rich_help_panel="Run")(servers.router)
app.command(rich_help_panel="Use")(calls.prefetch)
app.command(rich_help_panel="Run")(repair.repair)
app.command(rich_help_panel="Run")(drain.drain)
app.command(rich_help_panel="Use")(ask.ask)
app.add_typer(connect.connect_app, name="connect", rich_help_panel="Use")
app.command(rich_help_panel="Use")(forgetting.forget)
app.command(rich_help_panel="Use")(pins.pin)
app.command(rich_help_panel="Use")(pins.unpin)
app.command(rich_help_panel="Look")(calls.status)
app.command(rich_help_panel="Look")(top.top)
app.command(rich_help_panel="Look")(why.why)
app.command(rich_help_panel="Look")(verify.verify)
app.command(rich_help_panel="Look")(doctor.doctor)
app.command(rich_help_panel="Look")(inspection.inspect)
app.command(rich_help_panel="Look")(inventory.inventory)
app.command(rich_help_panel="Look")(files.model)
app.add_typer(files.config_app, name="config", rich_help_panel="Look")
app.command(rich_help_panel="Look")(calibration.calibrate)
app.command("eval", rich_help_panel="Look")(evaluation.evaluate)
app.command("simulate", rich_help_panel="Look")(simulate.command)
app.add_typer(profiles.profile_app, name="profile", rich_help_panel="Look")
app.add_typer(tokens.token_app, name="token", rich_help_panel="Run")
app.add_typer(keys.keys_app, name="keys", rich_help_panel="Run")
app.command(rich_help_panel="Try")(demo.demo)


def main() -> None:
    """Entry point."""
    if not sys.stderr.isatty():
        # Models are loaded with a bar that redraws itself: in a log that is one line per step.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app()
