"""Writes the valid and the hostile containers beside this file: `python -m tests.hostile.make`.

Deterministic: the same bytes every time. `EXPECTED` says what a reader must answer to each; `test_hostile.py` checks
it. A new way to lie is one more `case`.
"""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.types import DataType, KVChunk, KVLayout, LayerShape, Level, VariantKind
from tests.hostile.draft import CHECKSUM_BYTES, ENTRY, PREFIX, Draft, Section, zstd_bomb, zstd_frame

FOLDER = Path(__file__).parent
FINGERPRINT = "5e" * 32
TOKEN_IDS = [0, 17, 4_294_967_295]
INTEGRITY, FINGERPRINT_MISMATCH = "IntegrityError", "FingerprintMismatchError"

CASES: dict[str, Callable[[], bytes]] = {}
EXPECTED: dict[str, tuple[str, str]] = {}
"""Name of a file: (class of the error, its reason)."""


def case(name: str, make: Callable[[], bytes], reason: str = "integrity", error: str = INTEGRITY) -> None:
    """Add a hostile container."""
    CASES[name] = make
    EXPECTED[name] = (error, reason)


def golden_chunk() -> KVChunk:
    """Two layers of different shape, three tokens; every value is exact in bfloat16."""
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(1, 4, 4), LayerShape(2, 2, 3)))

    def tensor(shape: tuple[int, int, int], start: int) -> np.ndarray:
        steps = np.arange(start, start + shape[0] * shape[1] * shape[2])
        return ((steps * 37 % 101 - 50) * 2.0 ** (steps * 7 % 23 - 11)).astype(np.float32).reshape(shape)

    keys = [tensor((3, 1, 4), 0), tensor((3, 2, 2), 100)]
    values = [tensor((3, 1, 4), 200), tensor((3, 2, 3), 300)]
    keys[0][0, 0, :2] = [-0.0, 2.0**-133]  # the smallest bfloat16 denormal
    as_bfloat16 = [[t.astype(layout.data_type.numpy) for t in tensors] for tensors in (keys, values)]
    return KVChunk(layout, np.array(TOKEN_IDS, np.uint32), tuple(as_bfloat16[0]), tuple(as_bfloat16[1]), None)


def golden_container(level: Level) -> bytes:
    """What today's encoder writes; `valid-v1*.kvq` are what the first one wrote."""
    identity = ChunkIdentity(
        FINGERPRINT, bytes(range(32)), VariantKind.EXACT, bytes(range(32, 64)), {"document_ids": '["doc"]'}
    )
    return container.encode(golden_chunk(), level, identity)


VALID = {"valid-v1": Level.LOSSLESS, "valid-v1-high": Level.HIGH}
LOSSLESS = golden_container(Level.LOSSLESS)
HIGH = golden_container(Level.HIGH)
DRAFT = Draft.parse(LOSSLESS)
HIGH_DRAFT = Draft.parse(HIGH)


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
    case("section-part-unknown", altered(section(-1, part=5)))
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
    planes = DRAFT.sections[1].payload
    size = 12  # elements of keys of layer 0: bytes of a plane

    def plane(mode: int, data: bytes, length: int | None = None) -> bytes:
        return struct.pack("<BI", mode, len(data) if length is None else length) + data

    raw = plane(0, bytes(size))
    for name, payload in {
        "planes-cut": planes[:-1],
        "planes-longer": planes + b"\0",
        "planes-one": raw,
        "planes-three": raw * 3,
        "planes-mode": plane(7, bytes(size)) + raw,
        "planes-length": plane(0, bytes(size), 2**32 - 1) + raw,
        "planes-raw-short": plane(0, bytes(size - 1)) + raw,
        "planes-no-zstd": plane(1, b"not zstd at all") + raw,
        "planes-zstd-cut": plane(1, zstd_frame(bytes(size), size)[:-2]) + raw,
        "planes-zstd-other-size": plane(1, zstd_frame(bytes(size + 1), size + 1)) + raw,
        "planes-zstd-lying-size": plane(1, zstd_frame(bytes(size + 1), size)) + raw,
        "planes-zstd-no-size": plane(1, zstd_frame(bytes(size), None)) + raw,
        "planes-zstd-two-frames": plane(1, zstd_frame(bytes(size), size) * 2) + raw,
        "bomb-declared": plane(1, zstd_bomb(1 << 30, 1 << 30)) + raw,
        "bomb-hidden": plane(1, zstd_bomb(1 << 28, size)) + raw,
        "bomb-undeclared": plane(1, zstd_bomb(1 << 28, None)) + raw,
        "bomb-4e": plane(1, zstd_bomb(1 << 20, 2**62)) + raw,
    }.items():
        case(name, altered(section(1, payload=payload)))
    for name, payload in {
        "tokens-bomb": zstd_bomb(1 << 28, 12),
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


for add in (add_truncations, add_bit_flips, add_prefix_lies, add_header_lies, add_index_lies, add_payload_lies):
    add()


def main() -> None:
    """Write the hostile files; the valid ones only if they are missing, since they are what was once written."""
    for name, level in VALID.items():
        path = FOLDER / f"{name}.kvq"
        if not path.exists():
            path.write_bytes(golden_container(level))
    for name, make in CASES.items():
        (FOLDER / f"{name}.kvq").write_bytes(make())


if __name__ == "__main__":
    main()
