"""The `kvquilt` command."""

import os
import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from kvquilt.cli.on_demand import Commands, Source

COMMANDS = {
    "serve": Source("Run", "kvquilt.cli.servers", "serve"),
    "node": Source("Run", "kvquilt.cli.servers", "node"),
    "router": Source("Run", "kvquilt.cli.servers", "router"),
    "prefetch": Source("Use", "kvquilt.cli.calls", "prefetch"),
    "repair": Source("Run", "kvquilt.cli.repair", "repair"),
    "drain": Source("Run", "kvquilt.cli.drain", "drain"),
    "ask": Source("Use", "kvquilt.cli.ask", "ask"),
    "connect": Source("Use", "kvquilt.cli.connect", "connect_app"),
    "forget": Source("Use", "kvquilt.cli.forgetting", "forget"),
    "pin": Source("Use", "kvquilt.cli.pins", "pin"),
    "unpin": Source("Use", "kvquilt.cli.pins", "unpin"),
    "status": Source("Look", "kvquilt.cli.calls", "status"),
    "top": Source("Look", "kvquilt.cli.top", "top"),
    "why": Source("Look", "kvquilt.cli.why", "why"),
    "verify": Source("Look", "kvquilt.cli.verify", "verify"),
    "doctor": Source("Look", "kvquilt.cli.doctor", "doctor"),
    "inspect": Source("Look", "kvquilt.cli.inspection", "inspect"),
    "inventory": Source("Look", "kvquilt.cli.inventory", "inventory"),
    "model": Source("Look", "kvquilt.cli.files", "model"),
    "config": Source("Look", "kvquilt.cli.files", "config_app"),
    "calibrate": Source("Look", "kvquilt.cli.calibration", "calibrate"),
    "eval": Source("Look", "kvquilt.cli.evaluation", "evaluate"),
    "simulate": Source("Look", "kvquilt.cli.simulate", "command"),
    "gate": Source("Look", "kvquilt.cli.gate", "gate_app"),
    "profile": Source("Look", "kvquilt.cli.profiles", "profile_app"),
    "token": Source("Run", "kvquilt.cli.tokens", "token_app"),
    "keys": Source("Run", "kvquilt.cli.keys", "keys_app"),
    "demo": Source("Try", "kvquilt.demo.command", "demo"),
}
"""In the order of `kvquilt --help`."""


class Group(TyperGroup):
    """All commands, none of which is imported before it is asked for."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{**options, "commands": Commands(COMMANDS)})

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002  Click passes it
        """Their names."""
        return list(self.commands)


app = typer.Typer(
    cls=Group,
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
        from kvquilt_rpc.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


def main() -> None:
    """Entry point."""
    if not sys.stderr.isatty():
        # Models are loaded with a bar that redraws itself: in a log that is one line per step.
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app()
