"""A container to KV tensors, section by section, while its bytes arrive."""

from dataclasses import dataclass

import numpy as np
import xxhash
import zstandard

from kvquilt_codec.container.encoder import TOKENS_CODEC, tokens_digest
from kvquilt_codec.container.head import (
    PREFIX,
    ContainerHead,
    Header,
    Section,
    check_expansion,
    head_bytes,
    parse_head,
)
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.section import codec_by_id
from kvquilt_codec.types import TOKEN_BLOCK, Array, KVChunk, KVLayout, LayerKV, Part, TokenIds


@dataclass(frozen=True, slots=True)
class DecodedChunk:
    """KV of the layers in `layers`, in order, with what the container said of itself."""

    head: ContainerHead
    token_ids: TokenIds
    layers: range
    kv: tuple[LayerKV, ...]

    def chunk(self) -> KVChunk:
        """The whole chunk.

        Raises:
            BadRequestError: only some layers were decoded.
        """
        return KVChunk(
            self.head.layout,
            self.token_ids,
            tuple(layer.keys for layer in self.kv),
            tuple(layer.values for layer in self.kv),
            self.head.header.rotated_from,
        )


class ContainerDecoder:
    """Decodes a container from pieces of any size, in order; verifies every section before it is used.

    For a layer range, feed the head and then the bytes of `ContainerHead.byte_ranges(layers)`.

    Args:
        model_fingerprint: refuse KV of another model; `None` accepts any (for inspection only).
        layers: decode these layers only; `None` decodes all.
    """

    def __init__(self, model_fingerprint: str | None, layers: range | None = None) -> None:
        self._fingerprint = model_fingerprint
        self._layers = layers
        self._pending = bytearray()
        self._received = 0
        self._head: ContainerHead | None = None
        self._sections: tuple[Section, ...] = ()
        self._next = 0
        self._token_ids: TokenIds | None = None
        self._kv: dict[int, LayerKV] = {}

    @property
    def head(self) -> ContainerHead | None:
        """The head, once its bytes have come."""
        return self._head

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes; decode what they complete.

        Raises:
            IntegrityError: damaged bytes, or more of them than the container has.
            FingerprintMismatchError: KV of another model.
            BadRequestError: the layer range is outside the model.
        """
        self._pending += data
        self._received += len(data)
        if self._head is None and not self._take_head():
            return
        position = 0
        while self._next < len(self._sections):
            section = self._sections[self._next]
            if len(self._pending) - position < section.length:
                break
            payload = bytes(memoryview(self._pending)[position : position + section.length])
            self._decode_section(section, payload)
            position += section.length
            self._next += 1
        del self._pending[:position]
        if self._pending and self._next == len(self._sections):
            raise IntegrityError(f"expected no bytes after the last section; got {len(self._pending)} more")

    def finish(self) -> DecodedChunk:
        """The result, when all bytes have been fed.

        Raises:
            IntegrityError: bytes or sections are missing, or the token ids are not those of the header.
        """
        head = self._head
        if head is None or self._layers is None or self._next < len(self._sections) or self._token_ids is None:
            raise IntegrityError(f"expected the whole container; it ends in section {self._next}: truncated")
        return DecodedChunk(head, self._token_ids, self._layers, tuple(self._kv[layer] for layer in self._layers))

    def _take_head(self) -> bool:
        if len(self._pending) < PREFIX.size:
            return False
        size = head_bytes(bytes(self._pending[: PREFIX.size]))
        if len(self._pending) < size:
            return False
        head = parse_head(bytes(memoryview(self._pending)[:size]))
        if self._fingerprint is not None:
            head.check_fingerprint(self._fingerprint)
        self._layers = range(len(head.layout.layers)) if self._layers is None else self._layers
        self._sections = head.select(self._layers)
        _check_complete(head, self._layers, self._sections)
        self._head = head
        del self._pending[:size]
        return True

    def _decode_section(self, section: Section, payload: bytes) -> None:
        check_section(section, payload)
        if self._head is None:
            raise IntegrityError("expected the head before any section")
        header = self._head.header
        if section.part is Part.TOKENS:
            self._token_ids = _decode_tokens(section, payload, header)
            return
        if section.layer not in self._kv:
            # By what has come, not by what the head promises: the rest may never come.
            shapes = tuple(self._head.layout.layers[layer] for layer in (*self._kv, section.layer))
            check_expansion(KVLayout(header.data_type, shapes), header.tokens, self._received)
            self._kv[section.layer] = _empty_layer(self._head.layout, section.layer, header.tokens)
        layer = self._kv[section.layer]
        tensor = {Part.KEYS: layer.keys, Part.VALUES: layer.values}.get(section.part)
        if tensor is None:
            raise IntegrityError(f"expected keys or values; got a section of {section.part.name}")
        codec = codec_by_id(section.codec_id)
        start = section.token_block * TOKEN_BLOCK
        codec.decode(payload, tensor[start : start + header.tokens_in(section.token_block)])


def decode(buffer: bytes | memoryview, model_fingerprint: str | None, layers: range | None = None) -> DecodedChunk:
    """Decode a whole container, or some layers of it; see `ContainerDecoder` for arguments and errors."""
    view = memoryview(buffer)
    decoder = ContainerDecoder(model_fingerprint, layers)
    head = parse_head(view)
    if len(view) != head.total_bytes:
        raise IntegrityError(f"expected a container of {head.total_bytes} bytes; got {len(view)}")
    decoder.feed(view[: head.head_bytes])
    for begin, end in head.byte_ranges(layers if layers is not None else range(len(head.layout.layers))):
        decoder.feed(view[begin:end])
    return decoder.finish()


def _check_complete(head: ContainerHead, layers: range, sections: tuple[Section, ...]) -> None:
    expected = {
        (block, layer, part)
        for block in range(head.header.token_blocks)
        for layer in layers
        for part in (Part.KEYS, Part.VALUES)
    }
    if missing := expected - {(s.token_block, s.layer, s.part) for s in sections}:
        raise IntegrityError(f"expected keys and values of every block and layer; {len(missing)} are missing")


def _empty_layer(layout: KVLayout, layer: int, tokens: int) -> LayerKV:
    def empty(part: Part) -> Array:
        return np.empty(layout.layers[layer].of(part, tokens), layout.data_type.numpy)

    return LayerKV(empty(Part.KEYS), empty(Part.VALUES))


def _decode_tokens(section: Section, payload: bytes, header: Header) -> TokenIds:
    size = 4 * header.tokens
    try:
        if section.codec_id != TOKENS_CODEC or zstandard.frame_content_size(payload) != size:
            raise IntegrityError(f"expected {header.tokens} token ids; the section holds another number or format")
        raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"expected token ids in a zstd frame; got {error}") from None
    token_ids = np.frombuffer(raw, "<u4").astype(np.uint32)
    if len(token_ids) != header.tokens or tokens_digest(token_ids) != header.tokens_digest:
        raise IntegrityError("expected the token ids of the header's digest; got others")
    return token_ids


def verify(buffer: bytes | memoryview) -> ContainerHead:
    """Check a whole container's sizes, sections and checksums without decoding its tensors.

    Raises:
        IntegrityError: truncated, altered, or describing something impossible.
    """
    view = memoryview(buffer)
    head = parse_head(view)
    if len(view) != head.total_bytes:
        raise IntegrityError(f"expected a container of {head.total_bytes} bytes; got {len(view)}")
    _check_complete(head, range(len(head.layout.layers)), head.sections)
    for section in head.sections:
        check_section(section, view[section.offset : section.offset + section.length])
    return head


def check_section(section: Section, payload: bytes | memoryview) -> None:
    """Check a section's bytes against the index.

    Raises:
        IntegrityError: the checksum differs.
    """
    if xxhash.xxh3_128_digest(payload) != section.checksum:
        raise IntegrityError(
            f"expected the checksum of {section.part.name} of block {section.token_block}, layer {section.layer} "
            "to match; it does not: damaged",
            reason="checksum",
        )
