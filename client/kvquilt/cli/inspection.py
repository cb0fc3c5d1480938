"""`kvquilt inspect`: what a stored file holds, every checksum verified."""

from pathlib import Path
from typing import Annotated, Any

import typer

from kvquilt.cli.gates import points_of, print_gate
from kvquilt.cli.options import Json
from kvquilt.cli.output import explained, print_json, print_table, size
from kvquilt.cli.profiles import print_card
from kvquilt_codec import catalog, container
from kvquilt_codec.container import ContainerHead
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import NotFoundError
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.types import CodecId, Level, Part

_NAMES: dict[int, str] = {codec.value: codec.name.lower().replace("_", "-") for codec in CodecId}
_STAGES: dict[int, tuple[str, ...]] = {
    CodecId.EXACT_TOKENS: ("outliers exact",),
    CodecId.JOINT: ("un-rotated keys", "weigh", "rotate (KLT)", "quantise", "rANS"),
    CodecId.JOINT_PREDICTED: ("un-rotated keys", "weigh", "predict across layers", "rotate (KLT)", "quantise", "rANS"),
    CodecId.REFINEMENT: ("refine by 3", "rANS"),
    CodecId.CONTEXT_LOG8: ("logarithmic 8-bit codes", "zstd"),
}
_SHOWN = 80
"""Characters of an attribute that people are shown; JSON has all."""
_PROFILE_LEVELS = (Level.HIGH, Level.MEDIUM, Level.LOW)
"""What calibration calls quality layers, the finest first."""


def inspect(
    file: Annotated[Path, typer.Argument(help="A container, for instance blobs/ab/....kvq; or a profile, or a gate.")],
    as_json: Json = False,
) -> None:
    """Show what a container, a profile or a gate holds, every checksum verified. Exit code 4 if it is damaged."""
    with explained(as_json):
        if not file.is_file():
            raise NotFoundError(f"expected a file; {str(file)!r} is none")
        data = file.read_bytes()
        if gate_file.is_one(data):
            _show_gate(str(file), data, as_json)
            return
        # The header of a safetensors file begins after its length in 8 bytes.
        if not data.startswith(MAGIC) and data[8:9] == b"{":
            print_card(str(file), data, as_json)
            return
        rows = _rows(data)
        if as_json:
            print_json({name.replace(" ", "_"): value for name, value in rows.items()})
            return
        text = rows | {
            "stages": "; ".join(": ".join(filter(None, (c, ", ".join(s)))) for c, s in rows["stages"].items()),
            "levels": ", ".join(f"{level} {bits:.2f} bits per element" for level, bits in rows["levels"].items()),
            "attributes": {name: _shortened(value) for name, value in rows["attributes"].items()},
            "total bytes": size(rows["total bytes"]),
            "raw tensor bytes": size(rows["raw tensor bytes"]),
            "verified": "every checksum matches",
        }
        print_table(str(file), text)


def _show_gate(name: str, data: bytes, as_json: bool) -> None:
    gate = gate_file.load(data)
    rows = {
        "digest": gate_file.digest(data),
        "bytes": len(data),
        "model fingerprint": gate.model_fingerprint,
        "profile": gate.profile_digest,
    }
    if as_json:
        print_json({key.replace(" ", "_"): value for key, value in rows.items()} | {"gate": points_of(gate)})
        return
    print_table(name, rows | {"bytes": size(len(data))})
    print_gate(gate)


def _shortened(value: str) -> str:
    return value if len(value) <= _SHOWN else f"{value[:_SHOWN]}... ({len(value)} characters)"


def _rows(data: bytes) -> dict[str, Any]:
    head = container.verify(data)
    header = head.header
    elements = header.tokens * head.layout.elements_per_token
    codecs = dict.fromkeys(section.codec_id for section in head.sections if section.part is not Part.TOKENS)
    return {
        "object key": catalog.key_of(header).hex(),
        "chunk key": header.chunk_key,
        "model fingerprint": header.model_fingerprint,
        "variant": header.variant.value,
        "context digest": header.context_digest,
        "level": header.level.value,
        "profile": header.profile_digest or None,
        "quality layers": head.quality_layers,
        "levels": dict(_levels(head, elements)),
        "stages": {_NAMES.get(codec, f"codec {codec}"): list(_STAGES.get(codec, ())) for codec in codecs},
        "exact tokens": _exact_tokens(data, head),
        "exact tokens bits": round(8 * _bytes_of(head, Part.SIDE) / elements, 4),
        "tokens": header.tokens,
        "layers": len(header.layers),
        "data type": header.data_type.value,
        "keys": "un-rotated" if header.rotated_from is None else f"rotated from position {header.rotated_from}",
        "sections": len(head.sections),
        "head bytes": head.head_bytes,
        "section bytes": {
            part.name.lower(): _bytes_of(head, part) for part in Part if any(s.part is part for s in head.sections)
        },
        "total bytes": head.total_bytes,
        "raw tensor bytes": head.layout.nbytes(header.tokens),
        "bits per element": round(8 * head.total_bytes / elements, 4),
        "attributes": dict(header.attributes),
        "verified": True,
    }


def _levels(head: ContainerHead, elements: int) -> list[tuple[str, float]]:
    """Levels that the container can be read at, the finest first, with the bits that each takes in all."""
    if not head.header.profile_digest:
        return [(head.header.level.value, round(8 * head.total_bytes / elements, 4))]
    everything = range(len(head.layout.layers))
    found = []
    for depth in range(head.quality_layers, 0, -1):
        place = head.quality_layers - depth
        name = _PROFILE_LEVELS[place].value if place < len(_PROFILE_LEVELS) else f"{depth} quality layers"
        size = head.head_bytes + sum(end - begin for begin, end in head.byte_ranges(everything, depth))
        found.append((name, round(8 * size / elements, 4)))
    return found


def _bytes_of(head: ContainerHead, part: Part) -> int:
    return sum(section.length for section in head.sections if section.part is part)


def _exact_tokens(data: bytes, head: ContainerHead) -> int:
    """Tokens that are stored exactly: each block's section of layer 0 begins with how many."""
    sections = [s for s in head.sections if s.codec_id == CodecId.EXACT_TOKENS and s.layer == 0]
    return sum(int.from_bytes(data[s.offset : s.offset + 2], "little") for s in sections)
