"""The head of a container: prefix, header, front index, checksum. Nothing in it is believed before it is checked."""

import struct
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
import xxhash
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import (
    MAX_CHUNK_TOKENS,
    MAX_QUALITY_LAYERS,
    TOKEN_BLOCK,
    CodecId,
    DataType,
    KVLayout,
    LayerShape,
    Level,
    Part,
    VariantKind,
)

MAGIC = b"KVQUILT\x00"
VERSION = 1
PREFIX = struct.Struct("<8sHHIIQ")
"""magic, format version, flags (0), header bytes, number of sections, payload bytes."""
CHECKSUM_BYTES = 16
MAX_HEADER_BYTES = 1 << 20
MAX_SECTIONS = 1 << 20
MAX_DECODED_BYTES_ANYWAY = 256 << 20
MAX_EXPANSION = 1024
"""A container may decode to more than `MAX_DECODED_BYTES_ANYWAY` only if that is at most this many times its size."""

SECTION = np.dtype(
    [
        ("token_block", "<u4"),
        ("quality_layer", "u1"),
        ("part", "u1"),
        ("codec_id", "<u2"),
        ("layer", "<u2"),
        ("reserved", "<u2"),
        ("length", "<u4"),
        ("checksum", "V16"),
    ]
)
"""One entry of the front index, 32 bytes. Sections follow the head in index order, without gaps."""

Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a container says of itself, stored as JSON.

    Attributes:
        model_fingerprint: hex digest of the model that computed the KV.
        profile_digest: hex digest of the codec profile that the sections need, or "" if they need none.
        chunk_key: hex key of the chunk (`identity.chunk_key`).
        variant: what preceded the chunk.
        context_digest: hex digest of the tokens that preceded it.
        level: the finest level that it can be read at, `lossless` or `high`.
        tokens: number of tokens.
        tokens_digest: xxh3-128 (hex) of the token ids as little-endian uint32.
        data_type: element type of the tensors.
        layers: per model layer `[kv_heads, key_dim, value_dim]`.
        rotated_from: position of the first key, or null for un-rotated keys.
        attributes: free text of the writer, for instance document ids; never interpreted by a decoder.
    """

    model_fingerprint: Hex32
    profile_digest: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{64})?$")]
    chunk_key: Hex32
    variant: VariantKind
    context_digest: Hex32
    level: Level
    tokens: Annotated[int, msgspec.Meta(ge=1, le=MAX_CHUNK_TOKENS)]
    tokens_digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    data_type: DataType
    layers: tuple[tuple[int, int, int], ...]
    rotated_from: Annotated[int, msgspec.Meta(ge=0, lt=2**31)] | None
    attributes: dict[str, str]

    @property
    def layout(self) -> KVLayout:
        """Shapes and element type."""
        return KVLayout(self.data_type, tuple(LayerShape(*shape) for shape in self.layers))

    @property
    def form(self) -> StorageForm:
        """How the container is encoded."""
        return StorageForm(self.level, self.profile_digest)

    @property
    def token_blocks(self) -> int:
        """Number of token blocks."""
        return -(-self.tokens // TOKEN_BLOCK)

    def tokens_in(self, block: int) -> int:
        """Tokens of one block: `TOKEN_BLOCK`, fewer in the last."""
        return min(TOKEN_BLOCK, self.tokens - block * TOKEN_BLOCK)


@dataclass(frozen=True, slots=True)
class Section:
    """Where one section lies (offset from the start of the container) and how to read it."""

    token_block: int
    quality_layer: int
    layer: int
    part: Part
    codec_id: int
    offset: int
    length: int
    checksum: bytes


@dataclass(frozen=True, slots=True)
class ContainerHead:
    """A checked head: header, layout, and every section in file order."""

    header: Header
    layout: KVLayout
    sections: tuple[Section, ...]
    head_bytes: int
    total_bytes: int

    def check_fingerprint(self, model_fingerprint: str) -> None:
        """Refuse another model's KV.

        Raises:
            FingerprintMismatchError: the digests differ.
        """
        if self.header.model_fingerprint != model_fingerprint:
            raise FingerprintMismatchError(
                f"expected KV of model {model_fingerprint[:16]}...; the container holds KV of "
                f"{self.header.model_fingerprint[:16]}...: compute it with this model"
            )

    @property
    def quality_layers(self) -> int:
        """How many quality layers the container holds."""
        return 1 + max(section.quality_layer for section in self.sections)

    def select(self, layers: range, quality_layers: int | None = None, held: int = 0) -> tuple[Section, ...]:
        """The sections that a reader of these layers needs, those of token ids and side information included.

        Where layers are predicted from those before them, the coarsest quality layer of the earlier ones is among them.

        Args:
            layers: model layers.
            quality_layers: how many of them, the coarsest first; `None` selects all.
            held: how many of these the reader has already, with all that belongs to them: only the rest is selected.

        Raises:
            BadRequestError: a range that is empty, outside the model, or beyond the stored quality layers.
        """
        if not 0 <= layers.start < layers.stop <= len(self.layout.layers) or layers.step != 1:
            raise BadRequestError(f"expected layers within 0..{len(self.layout.layers)}; got {layers}")
        depth = self.quality_layers if quality_layers is None else quality_layers
        if not 1 <= depth <= self.quality_layers:
            raise BadRequestError(f"expected 1..{self.quality_layers} quality layers; got {depth}")
        if not 0 <= held < depth:
            raise BadRequestError(f"expected to hold fewer than the {depth} quality layers asked for; got {held}")
        if held:
            return tuple(s for s in self.sections if s.layer in layers and held <= s.quality_layer < depth)
        return tuple(
            s
            for s in self.sections
            if s.part in (Part.TOKENS, Part.CONTEXT)
            or (s.layer in layers and s.quality_layer < depth)
            or (s.codec_id == CodecId.JOINT_PREDICTED and s.layer < layers.start and s.quality_layer == 0)
        )

    def byte_ranges(
        self, layers: range, quality_layers: int | None = None, held: int = 0
    ) -> tuple[tuple[int, int], ...]:
        """Half-open byte ranges of `select(layers, quality_layers, held)`, adjacent ones merged."""
        ranges: list[tuple[int, int]] = []
        for section in self.select(layers, quality_layers, held):
            if ranges and ranges[-1][1] == section.offset:
                ranges[-1] = (ranges[-1][0], section.offset + section.length)
            else:
                ranges.append((section.offset, section.offset + section.length))
        return tuple(ranges)


def build_head(header: Header, index: NDArray[np.void]) -> bytes:
    """Serialise a head; `index` has dtype `SECTION`, in file order."""
    encoded = msgspec.json.encode(header, order="sorted")
    payload = int(index["length"].astype(np.uint64).sum())
    prefix = PREFIX.pack(MAGIC, VERSION, 0, len(encoded), len(index), payload)
    body = prefix + encoded + index.tobytes()
    return body + xxhash.xxh3_128_digest(body)


def head_bytes(prefix: bytes | memoryview) -> int:
    """Bytes of the whole head, from a container's first `PREFIX.size` bytes.

    Raises:
        IntegrityError: not a container, of another version, or with sizes beyond the limits.
    """
    if len(prefix) < PREFIX.size:
        raise IntegrityError(f"expected a container of at least {PREFIX.size} bytes; got {len(prefix)}")
    magic, version, flags, header_size, sections, _ = PREFIX.unpack_from(prefix)
    if magic != MAGIC:
        raise IntegrityError(f"expected a kvquilt container (magic {MAGIC!r}); got {magic!r}")
    if version != VERSION or flags != 0:
        raise IntegrityError(
            f"expected container version {VERSION}, flags 0; got version {version}, flags {flags}",
            reason="unknown_version",
        )
    if header_size > MAX_HEADER_BYTES or not 1 <= sections <= MAX_SECTIONS:
        raise IntegrityError(f"expected sizes within the limits; got header {header_size} bytes, {sections} sections")
    return PREFIX.size + int(header_size) + int(sections) * SECTION.itemsize + CHECKSUM_BYTES


def parse_head(buffer: bytes | memoryview) -> ContainerHead:
    """Check and parse the head at the start of `buffer` (which may hold more).

    Raises:
        IntegrityError: truncated, altered, or describing something impossible.
    """
    view = memoryview(buffer)
    size = head_bytes(view)
    if len(view) < size:
        raise IntegrityError(f"expected a head of {size} bytes; got {len(view)}: truncated")
    body, checksum = view[: size - CHECKSUM_BYTES], view[size - CHECKSUM_BYTES : size]
    if xxhash.xxh3_128_digest(body) != bytes(checksum):
        raise IntegrityError("expected the head's checksum to match; it does not: damaged", reason="checksum")
    _, _, _, header_size, sections, payload = PREFIX.unpack_from(view)
    try:
        header = msgspec.json.decode(body[PREFIX.size : PREFIX.size + header_size], type=Header)
        layout = header.layout
        _ = header.form
    except (msgspec.MsgspecError, UnicodeDecodeError, BadRequestError) as error:
        raise IntegrityError(f"expected a valid header; got {error}") from None
    check_expansion(layout, header.tokens, size + payload)
    index = np.frombuffer(body, SECTION, count=sections, offset=PREFIX.size + header_size)
    _check_index(index, header, payload)
    ends = size + np.cumsum(index["length"].astype(np.int64))
    entries = tuple(
        Section(block, quality, layer, Part(part), codec_id, end - length, length, checksum)
        for block, quality, part, codec_id, layer, _, length, checksum, end in zip(
            *(index[name].tolist() for name in SECTION.names or ()), ends.tolist(), strict=True
        )
    )
    return ContainerHead(header, layout, entries, size, size + int(payload))


def check_expansion(layout: KVLayout, tokens: int, container_bytes: int) -> None:
    """Refuse shapes that the size of the container does not justify, before anything is allocated for them.

    Raises:
        IntegrityError: see `MAX_EXPANSION`.
    """
    decoded = layout.nbytes(tokens)
    if decoded > decoded_allowance(container_bytes):
        raise IntegrityError(f"expected shapes that {container_bytes} bytes can hold; they would decode to {decoded}")


def decoded_allowance(container_bytes: int) -> int:
    """Bytes that so much of a container may decode to."""
    return max(MAX_DECODED_BYTES_ANYWAY, MAX_EXPANSION * container_bytes)


def _check_index(index: NDArray[np.void], header: Header, payload: int) -> None:
    """Every entry within the header's shapes, in strictly ascending order, lengths adding up."""
    order = (
        (index["token_block"].astype(np.uint64) << np.uint64(32))
        | (index["quality_layer"].astype(np.uint64) << np.uint64(24))
        | (index["layer"].astype(np.uint64) << np.uint64(8))
        | index["part"].astype(np.uint64)
    )
    context = index["part"] == Part.CONTEXT
    # Without a profile there is one: two would decode over each other.
    quality_layers = MAX_QUALITY_LAYERS if header.profile_digest else 1
    checks = {
        "token blocks within the chunk": bool((index["token_block"] < header.token_blocks).all()),
        "layers within the model": bool((index["layer"] < len(header.layers)).all()),
        "known parts": bool((index["part"] <= max(Part)).all()),
        "known quality layers": int(index["quality_layer"].max()) < quality_layers,
        "reserved fields of 0": not index["reserved"].any(),
        "sections in order, none twice": bool((order[1:] > order[:-1]).all()),
        "lengths that add up": int(index["length"].astype(np.uint64).sum()) == payload,
        "side information once, in block, quality layer and layer 0": int(context.sum()) <= 1
        and not any(index[name][context].any() for name in ("token_block", "quality_layer", "layer")),
        "token ids first": int(index["part"][0]) == Part.TOKENS and int((index["part"] == Part.TOKENS).sum()) == 1,
    }
    wrong = [what for what, holds in checks.items() if not holds]
    if wrong:
        raise IntegrityError(f"expected an index with {', '.join(wrong)}; this one has not")
