"""`kvquilt gate`: what a router's gate rests on, what audits found of it, and points that they withdrew."""

from typing import Annotated

import typer

from kvquilt.cli.calls import client_settings
from kvquilt.cli.gates import print_audited
from kvquilt.cli.options import ConfigFile, Json, Router, Set, way
from kvquilt.cli.output import PARTIAL, explained, out, print_json
from kvquilt.sync import Client

gate_app = typer.Typer(no_args_is_help=True, help="Show a router's gate with its audits, and lift withdrawals.")

Model = Annotated[str, typer.Option("--model", help="Which one, where the router serves several.")]


@gate_app.command("show")
def show(router: Router = None, flags: Set = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """Show each operating point: what was measured, what audits of all routers found, and whether it is in force."""
    with explained(as_json):
        settings = client_settings(config, flags, router)
        with Client(settings.router, settings.credentials) as client:
            models = client.models(deadline=settings.deadline)
        if as_json:
            print_json([{"model": model.name, "gate": model.gate} for model in models])
            return
        for model in models:
            print_audited(model)


@gate_app.command("lift")
def lift(
    point: Annotated[str, typer.Argument(metavar="POLICY:RATIO", help="As in `kvquilt gate show`.")],
    context: Annotated[str, typer.Argument(help="Of the chunks: exact, pair, warm or base.")],
    level: Annotated[str, typer.Argument(help="Of the codec.")],
    model: Model = "",
    router: Router = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Use a point again that audits withdrew, on all routers; its audits begin anew.

    Look into it first: what was served at this point was farther from a full prefill than measured. Exit code 7: some
    nodes do not know of it yet.
    """
    with explained(as_json):
        policy, ratio = way(point)
        settings = client_settings(config, flags, router)
        with Client(settings.router, settings.credentials) as client:
            report = client.lift(policy, ratio, context, level, model=model, deadline=settings.deadline)
        if as_json:
            print_json(report)
        else:
            out.print(f"{policy}:{ratio:g} {context} {level} is in force again; its audits begin anew")
            told = f"{report.nodes_stored} of {report.nodes} nodes keep it, and other routers follow within 20 seconds"
            out.print(told if report.nodes_stored else "no node keeps it: other routers do not know of it yet")
            if report.unstored_reason:
                out.print(f"the router goes on trying: {report.unstored_reason}", markup=False)
        if report.unstored_reason:
            raise typer.Exit(PARTIAL)
