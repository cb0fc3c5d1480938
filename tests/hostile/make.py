"""Writes the valid and the hostile containers beside this file: `python -m tests.hostile.make`.

Deterministic: the same bytes every time. `EXPECTED` says what a reader must answer to each; `test_hostile.py` checks
it. A new way to lie is one more `case`.
"""

import struct
from collections.abc import Callable

from kvquilt_codec.types import Level
from tests.hostile import side_lies
from tests.hostile.draft import CHECKSUM_BYTES, ENTRY, PREFIX, Draft, Section, zstd_bomb, zstd_frame
from tests.hostile.golden import FOLDER, VALID, golden_chunk, golden_container, smooth_chunk

INTEGRITY, FINGERPRINT_MISMATCH = "IntegrityError", "FingerprintMismatchError"

CASES: dict[str, Callable[[], bytes]] = {}
EXPECTED: dict[str, tuple[str, str]] = {}
"""Name of a file: (class of the error, its reason)."""


def case(name: str, make: Callable[[], bytes], reason: str = "integrity", error: str = INTEGRITY) -> None:
    """Add a hostile container."""
    CASES[name] = make
    EXPECTED[name] = (error, reason)


LOSSLESS = golden_container(golden_chunk(), Level.LOSSLESS)
DRAFT = Draft.parse(LOSSLESS)
HIGH_DRAFT = Draft.parse(golden_container(golden_chunk(), Level.HIGH))
CODED_DRAFT = Draft.parse(golden_container(smooth_chunk(), Level.LOSSLESS))


def altered(change: Callable[[Draft], object], draft: Draft = DRAFT) -> Callable[[], bytes]:
    """A case that changes a copy of the draft; sizes and checksums follow the change."""

    def make() -> bytes:
        copy = draft.copy()
        change(copy)
        return copy.build()

    return make


def flipped(position: int, bit: int) -> Callable[[], bytes]:
    """A case with one bit flipped."""

    def make() -> bytes:
        data = bytearray(LOSSLESS)
        data[position] ^= 1 << bit
        return bytes(data)

    return make


def header(**fields: object) -> Callable[[Draft], None]:
    """Replace header fields."""
    return lambda draft: draft.header.update(fields)


def section(number: int, **fields: object) -> Callable[[Draft], None]:
    """Replace fields of an entry of the index."""

    def change(draft: Draft) -> None:
        for name, value in fields.items():
            setattr(draft.sections[number], name, value)

    return change


def add_truncations() -> None:
    """Ends at every structural boundary, one byte before it, and in the middle of the first bytes."""
    for name, end in DRAFT.boundaries.items():
        if end < len(LOSSLESS):
            case(f"truncated-after-{name}", lambda end=end: LOSSLESS[:end])
        case(f"truncated-in-{name}", lambda end=end: LOSSLESS[: end - 1])
    case("empty", lambda: b"")
    case("magic-only", lambda: LOSSLESS[:8])


def add_bit_flips() -> None:
    """One bit in every part of the file."""
    for name, position, reason in (
        ("magic", 0, "integrity"),
        ("version", 8, "unknown_version"),
        ("flags", 10, "unknown_version"),
        ("section-count", 16, "checksum"),
        ("header", PREFIX.size + 40, "checksum"),
        ("index", DRAFT.boundaries["header"] + 5, "checksum"),
        ("index-checksum", DRAFT.boundaries["header"] + ENTRY.size - 1, "checksum"),
        ("head-checksum", DRAFT.boundaries["index"] + CHECKSUM_BYTES - 1, "checksum"),
        ("tokens", DRAFT.boundaries["head"] + 2, "checksum"),
        ("keys", DRAFT.boundaries["section-0"] + 1, "checksum"),
        ("last-byte", len(LOSSLESS) - 1, "checksum"),
    ):
        case(f"bit-flip-{name}", flipped(position, 0), reason)


def add_prefix_lies() -> None:
    """Sizes and counts that the file does not hold, under a checksum that matches."""
    for name, change in {
        "header-longer": {"header_bytes": 400_000},
        "header-4g": {"header_bytes": 2**32 - 1},
        "header-empty": {"raw_header": b""},
        "sections-more": {"section_count": 6},
        "sections-none": {"section_count": 0},
        "sections-4g": {"section_count": 2**32 - 1},
        "sections-million": {"section_count": 1 << 20},
        "payload-none": {"payload_bytes": 0},
        "payload-16e": {"payload_bytes": 2**64 - 1},
    }.items():
        reason = "checksum" if name == "sections-more" else "integrity"  # it takes payload for an entry
        case(f"lie-{name}", altered(lambda draft, change=change: draft.__dict__.update(change)), reason)
    case("lie-version-2", altered(lambda draft: setattr(draft, "version", 2)), "unknown_version")
    case("lie-flags", altered(lambda draft: setattr(draft, "flags", 1)), "unknown_version")
    case("lie-magic", altered(lambda draft: setattr(draft, "magic", b"KVQUILT1")))
    case("trailing-bytes", lambda: LOSSLESS + b"\0")
    case("trailing-container", lambda: LOSSLESS + LOSSLESS)


def add_header_lies() -> None:
    """A header that is not one, or that describes what cannot be."""
    good = DRAFT.header
    for name, raw in {
        "not-json": b"KV",
        "cut-json": LOSSLESS[PREFIX.size : PREFIX.size + 100],
        "not-utf8": b'{"model_fingerprint":"\xff\xfe"}',
        "array": b"[]",
        "null": b"null",
        "nested": b"[" * 5_000 + b"]" * 5_000,
    }.items():
        case(f"header-{name}", altered(lambda draft, raw=raw: setattr(draft, "raw_header", raw)))
    for name, fields in {
        "unknown-field": {"colour": "red"},
        "fingerprint-short": {"model_fingerprint": "5e"},
        "fingerprint-upper": {"model_fingerprint": "5E" * 32},
        "profile-unknown-form": {"profile_digest": "x"},
        "variant-unknown": {"variant": "sideways"},
        "level-unknown": {"level": "perfect"},
        "data-type-unknown": {"data_type": "float64"},
        "tokens-zero": {"tokens": 0},
        "tokens-negative": {"tokens": -3},
        "tokens-huge": {"tokens": 10**30},
        "tokens-over-limit": {"tokens": 4097},
        "tokens-more": {"tokens": 4},
        "tokens-fewer": {"tokens": 2},
        "tokens-another-block": {"tokens": 600},
        "tokens-text": {"tokens": "3"},
        "tokens-digest-wrong": {"tokens_digest": "00" * 16},
        "tokens-digest-short": {"tokens_digest": "00"},
        "no-layers": {"layers": []},
        "layers-more": {"layers": [*good["layers"], [1, 1, 1]]},
        "layers-fewer": {"layers": good["layers"][:1]},
        "layers-thousands": {"layers": [[1, 1, 1]] * 2_000},
        "shape-zero": {"layers": [[0, 4, 4], [2, 2, 3]]},
        "shape-negative": {"layers": [[-1, 4, 4], [2, 2, 3]]},
        "shape-huge": {"layers": [[10**18, 4, 4], [2, 2, 3]]},
        "shape-largest-allowed": {"layers": [[1024, 4096, 4096]] * 2, "tokens": 4096},
        "shape-within-allowance": {"layers": [[64, 128, 128]] * 2, "tokens": 4096},
        "shape-swapped": {"layers": [[2, 2, 3], [1, 4, 4]]},
        "shape-incomplete": {"layers": [[1, 4], [2, 2, 3]]},
        "rotated-negative": {"rotated_from": -1},
        "rotated-huge": {"rotated_from": 2**31},
        "attributes-numbers": {"attributes": {"a": 1}},
        "data-type-wider": {"data_type": "float32"},
    }.items():
        case(f"header-{name}", altered(header(**fields)))
    case("header-field-missing", altered(lambda draft: draft.header.pop("tokens_digest")))
    case(
        "other-model",
        altered(header(model_fingerprint="0f" * 32)),
        "fingerprint_mismatch",
        FINGERPRINT_MISMATCH,
    )


def add_index_lies() -> None:
    """Sections out of order, twice, missing, of unknown kinds, with lengths that lie."""
    case("sections-swapped", altered(lambda draft: draft.sections.insert(1, draft.sections.pop(2))))
    case("sections-twice", altered(lambda draft: draft.sections.insert(2, draft.sections[1])))
    case("sections-missing-keys", altered(lambda draft: draft.sections.pop(1)))
    case("sections-missing-values", altered(lambda draft: draft.sections.pop(-1)))
    case("sections-missing-tokens", altered(lambda draft: draft.sections.pop(0)))
    case("sections-only-tokens", altered(lambda draft: draft.sections.__delitem__(slice(1, None))))
    case("sections-tokens-twice", altered(lambda draft: draft.sections.insert(1, draft.sections[0])))
    case("sections-none", altered(lambda draft: draft.sections.clear()))
    second = {**vars(DRAFT.sections[1]), "quality_layer": 1}
    case("sections-second-quality-layer", altered(lambda draft: draft.sections.append(Section(**second))))
    case("section-quality-layer", altered(section(-1, quality_layer=1)))
    case("section-token-block", altered(section(-1, token_block=1)))
    case("section-token-block-4g", altered(section(-1, token_block=2**32 - 1)))
    case("section-layer-outside", altered(section(-1, layer=2)))
    case("section-part-unknown", altered(section(-1, part=6)))
    case("section-part-joint", altered(section(-1, part=4)))
    case("section-reserved", altered(section(-1, reserved=1)))
    case("section-codec-unknown", altered(section(1, codec_id=99)), "unknown_codec")
    case("section-codec-of-tokens-unknown", altered(section(0, codec_id=1)))
    case("section-codec-other", altered(section(1, codec_id=2)))
    case("section-checksum-zero", altered(section(1, checksum=bytes(16))), "checksum")
    case("section-length-4g", altered(section(1, length=2**32 - 1)))
    case("section-length-zero", altered(section(1, length=0)))
    one, other = (len(DRAFT.sections[number].payload) for number in (1, 2))
    shifted = (section(1, length=one - 8), section(2, length=other + 8))
    case("section-length-shifted", altered(lambda draft: [change(draft) for change in shifted]), "checksum")
    case("section-empty", altered(section(1, payload=b"")))


def add_payload_lies() -> None:
    """Sections whose checksums are right and whose content is not what the header says."""
    raw = DRAFT.sections[1].payload
    for name, payload in {
        "raw-cut": raw[:-1],
        "raw-longer": raw + b"\0",
        "mode-unknown": b"\2" + raw[1:],
        "mode-only": b"\1",
    }.items():
        case(f"exponents-{name}", altered(section(1, payload=payload)))
    coded = CODED_DRAFT.sections[1].payload
    escapes, tops, rest, listed, mantissas, block = (
        1,
        5,
        9,
        13,
        15,
        15 + 3 * 84,
    )  # where each begins: 4 channels, 1 bare
    lanes = block + 16
    for name, payload in {
        "cut": coded[:-1],
        "longer": coded + b"\0\0",
        "cut-in-side": coded[: rest + 1],
        "cut-in-mantissas": coded[: block - 1],
        "cut-in-block": coded[: lanes + 5],
        "escapes-4g": _put(coded, escapes, struct.pack("<I", 2**32 - 1)),
        "escapes-none": _put(coded, escapes, struct.pack("<I", 0)),
        "escapes-fewer": coded[:escapes] + struct.pack("<I", 0) + coded[tops:listed] + coded[mantissas:],
        "escapes-more": _put(coded, escapes, struct.pack("<I", 2))[:mantissas] + b"\x03\0" + coded[mantissas:],
        "escape-needless": _put(coded, listed, struct.pack("<H", coded[tops + 1])),
        "escape-too-large": _put(coded, listed, struct.pack("<H", 0x200)),
        "top-zero": _put(coded, tops, b"\0"),
        "table-unknown": _put(coded, rest, bytes([62 << 2])),
        "table-other": _put(coded, rest, bytes([coded[rest] ^ 4])),
        "bare-none": _put(coded, rest + 3, bytes([coded[rest + 3] & ~2])),
        "bare-all": _put(coded, rest, bytes(value | 2 for value in coded[rest:listed])),
        "block-version": _put(coded, block, b"\2"),
        "block-tokens": _put(coded, block + 4, struct.pack("<I", 97)),
        "block-words-4g": _put(coded, block + 12, struct.pack("<I", 2**32 - 1)),
        "block-state-low": _put(coded, lanes, bytes(4)),
        "block-state-other": _put(coded, lanes, b"\x01\x02\x03\x04"),
    }.items():
        case(f"exponents-{name}", altered(section(1, payload=payload), CODED_DRAFT))
    for name, payload in {
        "tokens-bomb": zstd_bomb(1 << 28, 12),
        "tokens-bomb-declared": zstd_bomb(1 << 28, 1 << 28),
        "tokens-bomb-undeclared": zstd_bomb(1 << 28, None),
        "tokens-bomb-4e": zstd_bomb(1 << 20, 2**62),
        "tokens-cut": DRAFT.sections[0].payload[:-2],
        "tokens-two-frames": zstd_frame(bytes(12), 12) * 2,
        "tokens-no-zstd": bytes(12),
        "tokens-others": zstd_frame(bytes(12), 12),
        "tokens-fewer": zstd_frame(bytes(8), 8),
        "tokens-odd": zstd_frame(bytes(11), 12),
        "tokens-longer": DRAFT.sections[0].payload + b"\0",
    }.items():
        case(name, altered(section(0, payload=payload)))
    codes = HIGH_DRAFT.sections[1].payload[6:]
    for name, scale in {"nan": 0x7FC0, "inf": 0x7F80, "negative": 0xBF80, "negative-zero": 0x8000}.items():
        payload = struct.pack("<HHH", 0x3F80, scale, 0x3F80) + codes
        case(f"int8-scale-{name}", altered(section(1, payload=payload), HIGH_DRAFT))
    case("int8-cut", altered(section(1, payload=HIGH_DRAFT.sections[1].payload[:-1]), HIGH_DRAFT))
    case("int8-longer", altered(section(1, payload=HIGH_DRAFT.sections[1].payload + b"\0"), HIGH_DRAFT))


def _put(payload: bytes, at: int, piece: bytes) -> bytes:
    return payload[:at] + piece + payload[at + len(piece) :]


for add in (add_truncations, add_bit_flips, add_prefix_lies, add_header_lies, add_index_lies, add_payload_lies):
    add()
for lie, (change, reason) in side_lies.LIES.items():
    case(lie, altered(change, side_lies.DRAFT), reason)


def main() -> None:
    """Write the hostile files; the valid ones only if they are missing, since they are what was once written."""
    for name, (chunk, level, side) in VALID.items():
        path = FOLDER / f"{name}.kvq"
        if not path.exists():
            path.write_bytes(golden_container(chunk(), level, side))
    for name, make in CASES.items():
        (FOLDER / f"{name}.kvq").write_bytes(make())


if __name__ == "__main__":
    main()
