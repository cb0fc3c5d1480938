"""KV tensors to a container."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash
import zstandard

from kvquilt_codec.container.head import SECTION, Header, build_head, check_expansion
from kvquilt_codec.container.side import encode_side
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import StorageForm, check_hex_digest
from kvquilt_codec.identity import check_digest
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.joint.coder import joined
from kvquilt_codec.joint.exact import encode_exact
from kvquilt_codec.section import codec_for_level
from kvquilt_codec.types import (
    TOKEN_BLOCK,
    CodecId,
    KVChunk,
    Level,
    Part,
    SectionCodec,
    SideInfo,
    TokenIds,
    VariantKind,
)

MAX_ATTRIBUTE_BYTES = 64 * 1024

Encoded = tuple[int, int, int, Part, int, bytes]
"""A section: token block, quality layer, layer, part, codec id, payload."""


@dataclass(frozen=True, slots=True)
class ChunkIdentity:
    """Who a stored chunk is: digests and keys as in `identity`, raw bytes; the fingerprint as hex.

    Raises:
        BadRequestError: a digest, a key or the fingerprint of another form.
    """

    model_fingerprint: str
    chunk_key: bytes
    variant: VariantKind
    context_digest: bytes
    attributes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_hex_digest(self.model_fingerprint, "model fingerprint")
        check_digest(self.chunk_key, "chunk key")
        check_digest(self.context_digest, "context digest")


def tokens_digest(token_ids: TokenIds) -> str:
    """xxh3-128 (hex) of token ids as little-endian uint32."""
    return xxhash.xxh3_128_hexdigest(token_ids.astype("<u4").tobytes())


def encode(
    chunk: KVChunk,
    level: Level,
    identity: ChunkIdentity,
    coder: JointCoder | None = None,
    side: SideInfo | None = None,
) -> bytes:
    """Encode a chunk. Equal inputs give equal bytes.

    Args:
        chunk: finite KV.
        level: the finest that it can be read at: `LOSSLESS` or `HIGH`; with a coder `HIGH`.
        identity: what the header says the chunk is.
        coder: a profile, made ready: the chunk is then coded with it, in all of its quality layers.
        side: how the chunk depends on what preceded it, stored beside its KV.

    Raises:
        BadRequestError: NaN or Inf, side information of another shape, a level that is not stored, attributes beyond
            64 KiB, or a chunk that the profile is not for.
    """
    form = StorageForm(level, "" if coder is None else coder.digest)
    chunk.check_finite()
    if sum(len(k.encode()) + len(v.encode()) for k, v in identity.attributes.items()) > MAX_ATTRIBUTE_BYTES:
        raise BadRequestError(f"expected at most {MAX_ATTRIBUTE_BYTES} bytes of attributes; got more")
    layout = chunk.layout
    header = Header(
        model_fingerprint=identity.model_fingerprint,
        profile_digest=form.profile_digest,
        chunk_key=identity.chunk_key.hex(),
        variant=identity.variant,
        context_digest=identity.context_digest.hex(),
        level=level,
        tokens=chunk.tokens,
        tokens_digest=tokens_digest(chunk.token_ids),
        data_type=layout.data_type,
        layers=tuple((layer.kv_heads, layer.key_dim, layer.value_dim) for layer in layout.layers),
        rotated_from=chunk.rotated_from,
        attributes=dict(identity.attributes),
    )
    tokens = zstandard.ZstdCompressor().compress(chunk.token_ids.astype("<u4").tobytes())
    tensors = _apart(chunk, codec_for_level(level)) if coder is None else _joint(chunk, coder)
    sections: list[Encoded] = [(0, 0, 0, Part.TOKENS, CodecId.TOKEN_IDS, tokens), *tensors]
    if side is not None:
        payload = encode_side(side, layout, chunk.tokens)
        place = next((at for at, section in enumerate(sections) if section[:3] != (0, 0, 0)), len(sections))
        sections.insert(place, (0, 0, 0, Part.CONTEXT, CodecId.CONTEXT_LOG8, payload))
    entries = [
        (block, quality, int(part), int(codec_id), layer, 0, len(payload), xxhash.xxh3_128_digest(payload))
        for block, quality, layer, part, codec_id, payload in sections
    ]
    head = build_head(header, np.array(entries, SECTION))
    container = b"".join([head, *(section[-1] for section in sections)])
    check_expansion(layout, chunk.tokens, len(container))
    return container


def _apart(chunk: KVChunk, codec: SectionCodec) -> Iterator[Encoded]:
    """Keys and values each by themselves."""
    for block, rows in enumerate(_blocks(chunk)):
        for layer, (keys, values) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
            for part, tensor in ((Part.KEYS, keys), (Part.VALUES, values)):
                yield block, 0, layer, part, codec.codec_id, codec.encode(tensor[rows])


def _joint(chunk: KVChunk, coder: JointCoder) -> Iterator[Encoded]:
    """Keys and values together, in the profile's quality layers; tokens that are stored exactly go first."""
    exact = coder.exact_rows(chunk)
    for block, rows in enumerate(_blocks(chunk)):
        layers = [joined(keys[rows], values[rows]) for keys, values in zip(chunk.keys, chunk.values, strict=True)]
        payloads = coder.encode_block(layers, exact[rows])
        for quality in range(len(coder.profile.quality)):
            for layer, (keys, values) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
                if quality == 0 and exact[rows].any():
                    side = encode_exact(exact[rows], keys[rows], values[rows])
                    yield block, 0, layer, Part.SIDE, CodecId.EXACT_TOKENS, side
                yield block, quality, layer, Part.JOINT, coder.codec_id(quality), payloads[layer][quality]


def _blocks(chunk: KVChunk) -> Iterator[slice]:
    for begin in range(0, chunk.tokens, TOKEN_BLOCK):
        yield slice(begin, begin + TOKEN_BLOCK)
