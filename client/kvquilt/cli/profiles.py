"""`kvquilt profile`: codec profiles and their gates, as files and on cache nodes; how a card is shown."""

import re
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from kvquilt.cli.gates import gate_beside, points_of, print_gate
from kvquilt.cli.nodes import call_nodes
from kvquilt.cli.options import ConfigFile, Json, Nodes, Set, overrides
from kvquilt.cli.output import explained, out, print_json, print_table, size
from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.gate import Gate
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.levels import level_cards
from kvquilt_codec.profile import file
from kvquilt_rpc.nodes import CacheNodes

profile_app = typer.Typer(no_args_is_help=True, help="Show codec profiles, and give them to the cache nodes.")


@profile_app.command("put")
def put(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="What `kvquilt calibrate` wrote.")],
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Store a profile on the cache nodes, where routers find it by its digest (router.profile).

    The gate beside the file, if there is one, is stored with it.
    """
    with explained(as_json):
        data = _read(path)
        profile, digest = file.load(data), file.digest(data)
        gate = gate_beside(path, profile.model_fingerprint, digest)

        async def stored(nodes: CacheNodes, deadline: float) -> list[dict[str, Any]]:
            new = await nodes.profiles.put(data, digest, profile.model_fingerprint, deadline=deadline)
            done = [{"digest": digest, "bytes": len(data), "stored": new}]
            if gate is not None:
                new = await nodes.gates.put(gate, deadline=deadline)
                done.append({"digest": gate_file.digest(gate), "bytes": len(gate), "stored": new})
            return done

        put, *gates = call_nodes(config, overrides(flags, router__nodes=node), stored)
        if as_json:
            print_json(put | {"gate": gates[0] if gates else None})
            return
        for what, item in zip(("profile", "gate"), (put, *gates), strict=False):
            known = "stored" if item["stored"] else "was there already"
            out.print(f"{what} {item['digest']} {known}, {size(item['bytes'])}")


@profile_app.command("list")
def list_profiles(node: Nodes = None, flags: Set = None, config: ConfigFile = None, as_json: Json = False) -> None:
    """List the profiles that the cache nodes have."""
    with explained(as_json):
        found = call_nodes(
            config,
            overrides(flags, router__nodes=node),
            lambda nodes, deadline: nodes.profiles.list(deadline=deadline),
        )
        if as_json:
            print_json({"profiles": found})
            return
        table = Table("digest", "model", "size", "objects", "gates")
        table.columns[0].overflow = "fold"  # digests are copied: none may be cut
        for info in found:
            counts = (str(info.objects), str(info.gates))
            table.add_row(info.digest, f"{info.model_fingerprint[:16]}...", size(info.stored_bytes), *counts)
        out.print(table)


@profile_app.command("show")
def show(
    which: Annotated[str, typer.Argument(metavar="PROFILE", help="A file, or the digest of one on the nodes.")],
    node: Nodes = None,
    flags: Set = None,
    config: ConfigFile = None,
    as_json: Json = False,
) -> None:
    """Show a profile's card: its levels, what each takes and does, and what it was learned from; and its gate."""
    with explained(as_json):
        if re.fullmatch("[0-9a-f]{64}", which) and not Path(which).exists():
            data, gate, missing = call_nodes(config, overrides(flags, router__nodes=node), _from_node(which))
        else:
            data = _read(Path(which))
            gate, missing = _gate_of(Path(which), data)
        print_card(which, data, as_json, {"gate": points_of(gate), "gate_missing_reason": missing})
        if as_json:
            return
        if gate is not None:
            print_gate(gate)
        else:
            out.print(f"no gate: {missing}", markup=False)


def _from_node(digest: str) -> Callable[[CacheNodes, float], Awaitable[tuple[bytes, Gate | None, str]]]:
    async def got(nodes: CacheNodes, deadline: float) -> tuple[bytes, Gate | None, str]:
        data = await nodes.profiles.get(digest, deadline=deadline)
        try:
            gate = await nodes.gates.get(digest, file.load(data).model_fingerprint, deadline=deadline)
            return data, gate_file.load(gate), ""
        except (NotFoundError, FingerprintMismatchError, IntegrityError) as error:
            return data, None, str(error)

    return got


def _gate_of(path: Path, data: bytes) -> tuple[Gate | None, str]:
    try:
        found = gate_beside(path, file.load(data).model_fingerprint, file.digest(data))
    except (FingerprintMismatchError, IntegrityError) as error:
        return None, str(error)
    if found is None:
        return None, f"expected it in {gate_file.beside(path)}; it is not there: measure it with `kvquilt calibrate`"
    return gate_file.load(found), ""


def print_card(name: str, data: bytes, as_json: bool, further: Mapping[str, object] | None = None) -> None:
    """Print what a profile's file says of itself, in JSON with something further.

    Raises:
        IntegrityError: it is no profile.
    """
    profile = file.load(data)
    reach = (0 if layer.predictor is None else len(layer.predictor) // layer.channels for layer in profile.layers)
    cards = list(level_cards(profile).values())
    rows: dict[str, Any] = {
        "digest": file.digest(data),
        "model fingerprint": profile.model_fingerprint,
        "bytes": len(data),
        "layers": len(profile.layers),
        "layers predicted from": max(reach, default=0),
        "quality layers": len(profile.quality),
        "step": profile.step,
        "outlier rules": len(profile.outliers),
        "texts": profile.texts,
        "levels": cards,
    }
    if as_json:
        print_json({key.replace(" ", "_"): value for key, value in rows.items()} | dict(further or {}))
        return
    del rows["levels"]
    print_table(name, rows | {"bytes": size(len(data))})
    table = Table("level", "quality layers", "bits per element", "KL", "top-1")
    for card in cards:
        table.add_row(
            card.level,
            str(card.quality_layers),
            f"{card.bits_per_element:.2f}",
            f"{card.kl:.2e}",
            f"{card.top1_agreement:.1%}",
        )
    out.print(table)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise NotFoundError(f"expected a profile's file; got {error}") from None
