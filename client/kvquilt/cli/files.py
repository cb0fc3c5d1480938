"""`kvquilt inspect`, `config`, `model`: what needs no running server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from kvquilt.cli.options import ConfigFile, Json, Set
from kvquilt.cli.output import explained, out, print_json, print_table, size
from kvquilt.cli.settings import leaves, load, value_of
from kvquilt_codec import catalog, container
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.types import Part

config_app = typer.Typer(no_args_is_help=True, help="Show and check the settings.")


def inspect(
    file: Annotated[Path, typer.Argument(help="A container, for instance blobs/ab/....kvq of a file store.")],
    as_json: Json = False,
) -> None:
    """Show what a container holds, and verify every checksum. Exit code 4 if it is damaged."""
    with explained(as_json):
        if not file.is_file():
            raise NotFoundError(f"expected a file; {str(file)!r} is none")
        data = file.read_bytes()
        head = container.verify(data)
        header = head.header
        raw = head.layout.nbytes(header.tokens)
        elements = header.tokens * head.layout.elements_per_token
        by_part = {
            part.name.lower(): sum(s.length for s in head.sections if s.part is part)
            for part in Part
            if any(s.part is part for s in head.sections)
        }
        rows: dict[str, object] = {
            "object key": catalog.key_of(header).hex(),
            "chunk key": header.chunk_key,
            "model fingerprint": header.model_fingerprint,
            "variant": header.variant.value,
            "context digest": header.context_digest,
            "level": header.level.value,
            "profile": header.profile_digest or None,
            "quality layers": head.quality_layers,
            "tokens": header.tokens,
            "layers": len(header.layers),
            "data type": header.data_type.value,
            "keys": "un-rotated" if header.rotated_from is None else f"rotated from position {header.rotated_from}",
            "sections": len(head.sections),
            "head bytes": head.head_bytes,
            "section bytes": by_part,
            "total bytes": head.total_bytes,
            "raw tensor bytes": raw,
            "bits per element": round(8 * head.total_bytes / elements, 4),
            "attributes": dict(header.attributes),
            "verified": True,
        }
        if as_json:
            print_json({name.replace(" ", "_"): value for name, value in rows.items()})
        else:
            text = rows | {"total bytes": size(head.total_bytes), "raw tensor bytes": size(raw)}
            print_table(str(file), text | {"verified": "every checksum matches"})


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
    """Check the settings: exit code 0 if they can be used, 2 with the reason if not."""
    with explained(as_json):
        loaded = load(config, flags or [])
        from kvquilt_router.policies import policy_by_name
        from kvquilt_router.router import namespace_of

        policy_by_name(loaded.settings.router.policy)
        namespace_of(loaded.settings.router)
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
