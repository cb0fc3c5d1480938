"""Lies of a container about its side information: where its section stands, and what it holds."""

import struct
from collections.abc import Callable

from kvquilt_codec.types import Level
from tests.hostile.draft import Draft, zstd_bomb, zstd_frame
from tests.hostile.golden import golden_chunk, golden_container, golden_side

DRAFT = Draft.parse(golden_container(golden_chunk(), Level.LOSSLESS, golden_side()))
PLACE = next(number for number, section in enumerate(DRAFT.sections) if section.part == 5)
PAYLOAD = DRAFT.sections[PLACE].payload
MAXIMA, FRAME = 1, 1 + 4 * 3
"""Where they begin: maxima of two layers and of inter, then a frame of 3 + 6 + 3 codes."""
CODES = 12


def _payload(payload: bytes) -> Callable[[Draft], None]:
    return lambda draft: setattr(draft.sections[PLACE], "payload", payload)


def _maximum(number: int, *bits: int) -> bytes:
    begin = MAXIMA + 4 * number
    return PAYLOAD[:begin] + struct.pack(f"<{len(bits)}I", *bits) + PAYLOAD[begin + 4 * len(bits) :]


def _moved(to: int, **fields: int) -> Callable[[Draft], None]:
    def change(draft: Draft) -> None:
        section = draft.sections.pop(PLACE)
        for name, value in fields.items():
            setattr(section, name, value)
        draft.sections.insert(to, section)

    return change


_PAYLOADS = {
    "empty": b"",
    "present-none": b"\0" + PAYLOAD[1:],
    "present-unknown": b"\7" + PAYLOAD[1:],
    "present-fewer": b"\1" + PAYLOAD[1:],
    "maxima-only": PAYLOAD[:FRAME],
    "maxima-cut": PAYLOAD[: FRAME - 2],
    "maximum-nan": _maximum(0, 0x7FC00000),
    "maximum-inf": _maximum(1, 0x7F800000),
    "maximum-negative": _maximum(0, 0xBF800000),
    "maximum-negative-zero": _maximum(0, 0x80000000),
    "maximum-zero": _maximum(0, 0),
    "maximum-of-inter-above-1": _maximum(2, 0x3F800001),
    "cut": PAYLOAD[:-1],
    "longer": PAYLOAD + b"\0",
    "no-zstd": PAYLOAD[:FRAME] + bytes(CODES),
    "two-frames": PAYLOAD + PAYLOAD[FRAME:],
    "codes-fewer": PAYLOAD[:FRAME] + zstd_frame(bytes(CODES - 1), CODES),
    "codes-more": PAYLOAD[:FRAME] + zstd_frame(bytes(CODES + 1), CODES),
    "codes-undeclared": PAYLOAD[:FRAME] + zstd_frame(bytes(CODES), None),
    "bomb": PAYLOAD[:FRAME] + zstd_bomb(1 << 28, CODES),
    "bomb-declared": PAYLOAD[:FRAME] + zstd_bomb(1 << 28, 1 << 28),
    "bomb-4e": PAYLOAD[:FRAME] + zstd_bomb(1 << 20, 2**62),
}
_INDEX = {
    "layer-1": _moved(len(DRAFT.sections), layer=1),
    "quality-layer": _moved(len(DRAFT.sections) - 1, quality_layer=1),
    "before-the-tokens": _moved(0),
    "before-the-keys": _moved(1),
    "twice": lambda draft: draft.sections.insert(PLACE, draft.sections[PLACE]),
}
LIES: dict[str, tuple[Callable[[Draft], object], str]] = {
    **{f"side-{name}": (_payload(payload), "integrity") for name, payload in _PAYLOADS.items()},
    **{f"section-side-{name}": (change, "integrity") for name, change in _INDEX.items()},
    "section-codec-of-side-unknown": (lambda draft: setattr(draft.sections[PLACE], "codec_id", 99), "unknown_codec"),
}
"""Name of a file: how the container above is changed, and the reason of the refusal."""
