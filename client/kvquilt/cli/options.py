"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from kvquilt_codec.errors import BadRequestError

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines instead of text for people.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", help="YAML settings file. Default: $KVQUILT_CONFIG, else the user's kvquilt.yaml."),
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, for instance router.port=0. Repeatable."),
]
Router = Annotated[str | None, typer.Option("--router", help="The router, host:port. Default: client.router.")]
Policy = Annotated[str | None, typer.Option("--policy", help="Recompute policy. Default: the router's.")]
Ratio = Annotated[
    float | None,
    typer.Option("--ratio", min=0, max=1, help="Share of reused tokens to recompute. Default: the router's."),
]
Level = Annotated[
    str | None,
    typer.Option(
        "--level",
        help="Codec level: lossless, high, medium, low, or a bound like 'kl<1e-3'. Default: the router's.",
    ),
]
MaxKl = Annotated[
    float | None,
    typer.Option("--max-kl", min=0, help="Most divergence that the gate may predict, in nats. Default: the router's."),
]
Corpus = Annotated[
    str, typer.Option("--corpus", help="What the documents belong to: chunks are computed after passages of it.")
]
Nodes = Annotated[
    list[str] | None,
    typer.Option("--node", help="A cache node, host:port, or several with commas. Repeatable. Sets router.nodes."),
]


def overrides(flags: list[str] | None, **named: object) -> list[str]:
    """Flags as settings: those given by `--set`, then those with an option of their own that were used."""
    texts = {name: ",".join(value) if isinstance(value, list) else value for name, value in named.items()}
    own = [f"{name.replace('__', '.')}={value}" for name, value in texts.items() if value is not None]
    return [*(flags or []), *own]


def way(text: str) -> tuple[str, float]:
    """A recompute policy and its ratio, given as NAME:RATIO.

    Raises:
        BadRequestError: it is something else.
    """
    name, _, ratio = text.partition(":")
    try:
        share = float(ratio)
    except ValueError:
        raise BadRequestError(f"expected NAME:RATIO, for instance deviation:0.15; got {text!r}") from None
    if not 0 <= share <= 1:
        raise BadRequestError(f"expected a ratio in 0..1; got {text!r}")
    return name, share
