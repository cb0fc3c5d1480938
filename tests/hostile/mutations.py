"""Ways to damage bytes, and to lie in a container whose checksums match."""

import json
import random
import struct
from collections.abc import Callable, Sequence

from tests.hostile.draft import Draft, Section

EXTREMES = (0, 1, 2, 3, 127, 255, 256, 257, 4095, 4096, 65_535, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
WRONG = (None, 0, -1, 1, 3, 2**31, 2**63, 1e300, 0.5, True, "", "x", "00" * 16, "5e" * 32, [], {}, [[]], [[1, 1, 1]])

Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]
"""Changes bytes in place; other data of the same kind may be taken from the sequence. Never called with none."""


def flip_bits(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(rng.choice([1, 1, 1, 2, 8, 64])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def set_byte(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF])


def set_number(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    """Overwrite what may be a length or a count: with an extreme, or with something near what it is."""
    kind = rng.choice(["<B", "<H", "<I", "<Q"])
    size = struct.calcsize(kind)
    at = rng.randrange(len(data))
    old = int.from_bytes(data[at : at + size], "little")
    number = rng.choice([*EXTREMES, len(data), old + 1, old - 1, old + 2, 2 * old, old // 2]) % (1 << 8 * size)
    data[at : at + size] = struct.pack(kind, number)[: len(data) - at]


def truncate(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def cut_out(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    begin = rng.randrange(len(data))
    del data[begin : begin + rng.choice([1, 2, 4, 16, 32, 100])]


def repeat(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    begin = rng.randrange(len(data))
    data[begin:begin] = data[begin : begin + rng.choice([1, 2, 4, 32, 100])]


def splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    other = rng.choice(others)
    begin = rng.randrange(min(len(data), len(other)) or 1)
    size = rng.choice([1, 4, 16, 32, len(other)])
    data[begin : begin + size] = other[begin : begin + size]


def move(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    begin, to = sorted(rng.randrange(len(data)) for _ in range(2))
    piece = data[begin : begin + 32]
    del data[begin : begin + 32]
    data[to:to] = piece


MUTATIONS: list[Mutation] = [flip_bits, set_byte, set_number, truncate, cut_out, repeat, splice, move]


def mutated(valid: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """One to five mutations, one after the other."""
    data = bytearray(valid)
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        if data:
            rng.choice(MUTATIONS)(data, rng, others)
    return bytes(data)


def _payload(draft: Draft, section: Section, rng: random.Random) -> None:
    section.payload = mutated(section.payload, rng, [other.payload for other in draft.sections])


def _foreign_payload(draft: Draft, section: Section, rng: random.Random) -> None:
    section.payload = rng.choice(draft.sections).payload


def _entry(draft: Draft, section: Section, rng: random.Random) -> None:
    name = rng.choice(["token_block", "quality_layer", "part", "codec_id", "layer", "reserved"])
    setattr(section, name, rng.choice([0, 1, 2, 3, 4, 5, 6, 7, 16, 255]))


def _length(draft: Draft, section: Section, rng: random.Random) -> None:
    section.length = rng.choice([0, 1, len(section.payload) - 1, len(section.payload) + 1, 2**31, 2**32 - 1]) % 2**32


def _order(draft: Draft, section: Section, rng: random.Random) -> None:
    if rng.random() < 0.5:
        draft.sections.remove(section)
    draft.sections.insert(rng.randrange(len(draft.sections) + 1), section)


def _prefix(draft: Draft, section: Section, rng: random.Random) -> None:
    name = rng.choice(["version", "flags", "header_bytes", "section_count", "payload_bytes"])
    size = 16 if name in ("version", "flags") else 32
    setattr(draft, name, rng.choice(EXTREMES) % 2**size)


def _field(draft: Draft, section: Section, rng: random.Random) -> None:
    draft.header[rng.choice([*draft.header, "colour"])] = rng.choice(WRONG)


def _count(draft: Draft, section: Section, rng: random.Random) -> None:
    """Plausible numbers: as many tokens, layers, heads or elements more or fewer."""
    layer = rng.choice(draft.header["layers"])
    what = rng.randrange(5)
    if what == 0:
        draft.header["tokens"] = max(0, draft.header["tokens"] + rng.choice([-256, -1, 1, 256, 4096]))
    elif what == 1:
        draft.header["layers"].append(layer)
    elif what == 2:
        draft.header["layers"].remove(layer)
    elif what == 3:
        layer[rng.randrange(3)] += rng.choice([-1, 1, 63, 1023])
    else:
        draft.header["data_type"] = rng.choice(["bfloat16", "float16", "float32"])


def _raw_header(draft: Draft, section: Section, rng: random.Random) -> None:
    draft.raw_header = mutated(json.dumps(draft.header, sort_keys=True).encode(), rng, [b'{"tokens":', b"[" * 500])


LIES: list[Callable[[Draft, Section, random.Random], None]] = [
    *[_payload] * 8,
    _foreign_payload,
    _entry,
    _length,
    _order,
    _prefix,
    _field,
    _count,
    _count,
    _raw_header,
]
"""What an attacker may do who computes checksums; payloads most often, because of them there is most to get wrong."""


def lie(valid: bytes, rng: random.Random) -> tuple[bytes, Section | None]:
    """A container with one lie, and the section if its payload alone is changed."""
    draft = Draft.parse(valid)
    section = rng.choice(draft.sections)
    change = rng.choice(LIES)
    change(draft, section, rng)
    return draft.build(), section if change in (_payload, _foreign_payload) else None
