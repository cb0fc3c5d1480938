"""KV tensors to a container."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import xxhash
import zstandard

from kvquilt_codec.container.head import SECTION, Header, build_head, check_expansion
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.section import codec_for_level
from kvquilt_codec.types import TOKEN_BLOCK, KVChunk, Level, Part, TokenIds, VariantKind

TOKENS_CODEC = 16
"""Codec id of the token ids' section: little-endian uint32 in one zstd frame."""
MAX_ATTRIBUTE_BYTES = 64 * 1024


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
        if not re.fullmatch("[0-9a-f]{64}", self.model_fingerprint):
            raise BadRequestError(f"expected a model fingerprint of 64 hex digits; got {self.model_fingerprint[:80]!r}")
        check_digest(self.chunk_key, "chunk key")
        check_digest(self.context_digest, "context digest")


def tokens_digest(token_ids: TokenIds) -> str:
    """xxh3-128 (hex) of token ids as little-endian uint32."""
    return xxhash.xxh3_128_hexdigest(token_ids.astype("<u4").tobytes())


def encode(chunk: KVChunk, level: Level, identity: ChunkIdentity) -> bytes:
    """Encode a chunk. Equal inputs give equal bytes.

    Args:
        chunk: finite KV.
        level: operating point.
        identity: what the header says the chunk is.

    Raises:
        BadRequestError: NaN or Inf, or attributes beyond 64 KiB.
    """
    chunk.check_finite()
    if sum(len(k.encode()) + len(v.encode()) for k, v in identity.attributes.items()) > MAX_ATTRIBUTE_BYTES:
        raise BadRequestError(f"expected at most {MAX_ATTRIBUTE_BYTES} bytes of attributes; got more")
    layout = chunk.layout
    header = Header(
        model_fingerprint=identity.model_fingerprint,
        profile_digest="",
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
    codec = codec_for_level(level)
    tokens = zstandard.ZstdCompressor().compress(chunk.token_ids.astype("<u4").tobytes())
    payloads = [tokens]
    entries = [_entry(0, 0, Part.TOKENS, TOKENS_CODEC, tokens)]
    for block in range(header.token_blocks):
        rows = slice(block * TOKEN_BLOCK, (block + 1) * TOKEN_BLOCK)
        for layer, (keys, values) in enumerate(zip(chunk.keys, chunk.values, strict=True)):
            for part, tensor in ((Part.KEYS, keys), (Part.VALUES, values)):
                payload = codec.encode(tensor[rows])
                payloads.append(payload)
                entries.append(_entry(block, layer, part, codec.codec_id, payload))
    head = build_head(header, np.array(entries, SECTION))
    container = b"".join([head, *payloads])
    check_expansion(layout, chunk.tokens, len(container))
    return container


def _entry(block: int, layer: int, part: Part, codec_id: int, payload: bytes) -> tuple[object, ...]:
    return (block, 0, int(part), codec_id, layer, 0, len(payload), xxhash.xxh3_128_digest(payload))
