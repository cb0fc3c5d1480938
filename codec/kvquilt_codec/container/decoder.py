"""A container to KV tensors, section by section, while its bytes arrive."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xxhash
import zstandard

from kvquilt_codec.container.encoder import tokens_digest
from kvquilt_codec.container.head import (
    PREFIX,
    ContainerHead,
    Header,
    Section,
    decoded_allowance,
    head_bytes,
    parse_head,
)
from kvquilt_codec.container.layers import Coders, SectionSink, Tensors, check_complete, open_sink
from kvquilt_codec.container.side import decode_side
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import CodecId, KVChunk, LayerKV, Part, SideInfo, TokenIds

_DESCRIBING = (Part.TOKENS, Part.CONTEXT)
"""Parts that are of the whole chunk, not of a layer."""


@dataclass(frozen=True, slots=True)
class DecodedChunk:
    """KV of the layers in `layers`, in order, with what the container said of itself.

    `side` is of all layers, whichever were decoded; `None` where the writer had none.
    """

    head: ContainerHead
    token_ids: TokenIds
    layers: range
    kv: tuple[LayerKV, ...]
    side: SideInfo | None = None

    @property
    def rotated_from(self) -> int | None:
        """As of `KVChunk`."""
        return self.head.header.rotated_from

    def layer(self, index: int) -> LayerKV:
        """Keys and values of one of `layers`."""
        return self.kv[index - self.layers.start]

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
            self.rotated_from,
        )


class ContainerDecoder:
    """Decodes a container from pieces of any size, in order; verifies every section before it is used.

    For less than everything, feed the head and then the bytes of `ContainerHead.byte_ranges`.

    Args:
        model_fingerprint: refuse KV of another model; `None` accepts any (for inspection only).
        layers: decode these layers only; `None` decodes all.
        quality_layers: decode so many quality layers only; `None` decodes all.
        coders: where coders of profiles come from; needed for containers that name a profile.
        on_layer: called with a layer's number when its keys and values of all token blocks are decoded, so that `layer`
            gives them; layers come in order. With one token block they come one by one while the bytes of the last
            quality layer do, with more during the last block's.
    """

    def __init__(
        self,
        model_fingerprint: str | None,
        layers: range | None = None,
        quality_layers: int | None = None,
        coders: Coders | None = None,
        on_layer: Callable[[int], None] | None = None,
    ) -> None:
        self._fingerprint = model_fingerprint
        self._layers = layers
        self._quality_layers = quality_layers
        self._coders = coders
        self._on_layer = on_layer
        self._pending = bytearray()
        self._received = 0
        self._head: ContainerHead | None = None
        self._sections: tuple[Section, ...] = ()
        self._next = 0
        self._ends: list[int] = []
        self._last: dict[int, int] = {}
        """Of each layer that is decoded, the section that completes it."""
        self._token_ids: TokenIds | None = None
        self._side: SideInfo | None = None
        self._tensors: Tensors | None = None
        self._sink: SectionSink | None = None

    @property
    def head(self) -> ContainerHead | None:
        """The head, once its bytes have come."""
        return self._head

    @property
    def described(self) -> bool:
        """Whether all has come that is not keys and values: head, token ids, side information if there is any."""
        return self._head is not None and not any(s.part in _DESCRIBING for s in self._sections[self._next :])

    @property
    def token_ids(self) -> TokenIds | None:
        """The chunk's tokens, once they have come."""
        return self._token_ids

    @property
    def side(self) -> SideInfo | None:
        """The side information, once it has come; `None` also if there is none."""
        return self._side

    def bytes_until(self, layer: int) -> int:
        """Bytes that must still come until a layer is complete; 0 once it is. Only when the head has come."""
        return max(0, self._ends[self._last[layer]] - self._received) if self._last[layer] >= self._next else 0

    def layer(self, layer: int) -> LayerKV:
        """A layer that `on_layer` was called with; may be called in another thread than `feed`."""
        if self._tensors is None:
            raise IntegrityError("expected the head before any layer")
        return self._tensors.layer(layer)

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes; decode what they complete.

        Raises:
            IntegrityError: damaged bytes, or more of them than the container has.
            FingerprintMismatchError: KV of another model.
            BadRequestError: layers or quality layers that the container has not.
            NotFoundError: the container names a profile that is not at hand.
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
            if self._on_layer is not None and self._last.get(section.layer) == self._next - 1:
                self._on_layer(section.layer)
        del self._pending[:position]
        if self._pending and self._next == len(self._sections):
            raise IntegrityError(f"expected no bytes after the last section; got {len(self._pending)} more")

    def finish(self) -> DecodedChunk:
        """The result, when all bytes have been fed.

        Raises:
            IntegrityError: bytes or sections are missing, or the token ids are not those of the header.
        """
        head = self._head
        if head is None or self._tensors is None or self._next < len(self._sections) or self._token_ids is None:
            raise IntegrityError(f"expected the whole container; it ends in section {self._next}: truncated")
        return DecodedChunk(head, self._token_ids, self._tensors.layers, self._tensors.all(), self._side)

    def _take_head(self) -> bool:
        if len(self._pending) < PREFIX.size:
            return False
        size = head_bytes(bytes(self._pending[: PREFIX.size]))
        if len(self._pending) < size:
            return False
        head = parse_head(bytes(memoryview(self._pending)[:size]))
        if self._fingerprint is not None:
            head.check_fingerprint(self._fingerprint)
        layers = range(len(head.layout.layers)) if self._layers is None else self._layers
        self._sections = head.select(layers, self._quality_layers)
        check_complete(head, layers, self._sections, self._quality_layers or head.quality_layers)
        self._tensors = Tensors(head, layers)
        self._sink = open_sink(head, self._tensors, self._quality_layers, self._coders)
        self._ends = list(itertools.accumulate((s.length for s in self._sections), initial=size))[1:]
        self._last = {
            s.layer: at for at, s in enumerate(self._sections) if s.layer in layers and s.part not in _DESCRIBING
        }
        self._head = head
        del self._pending[:size]
        return True

    def _decode_section(self, section: Section, payload: bytes) -> None:
        check_section(section, payload)
        if self._head is None or self._sink is None:
            raise IntegrityError("expected the head before any section")
        if section.part is Part.TOKENS:
            self._token_ids = decode_tokens(section, payload, self._head.header)
        elif section.part is Part.CONTEXT:
            self._side = _decode_side(section, payload, self._head, self._received)
        else:
            self._sink.take(section, payload, self._received)


def decode(
    buffer: bytes | memoryview,
    model_fingerprint: str | None,
    layers: range | None = None,
    quality_layers: int | None = None,
    coders: Coders | None = None,
) -> DecodedChunk:
    """Decode a whole container, or a part of it; see `ContainerDecoder` for arguments and errors."""
    view = memoryview(buffer)
    decoder = ContainerDecoder(model_fingerprint, layers, quality_layers, coders)
    head = parse_head(view)
    if len(view) != head.total_bytes:
        raise IntegrityError(f"expected a container of {head.total_bytes} bytes; got {len(view)}")
    decoder.feed(view[: head.head_bytes])
    # One by one: what is fed is copied.
    for section in head.select(layers or range(len(head.layout.layers)), quality_layers):
        decoder.feed(view[section.offset : section.offset + section.length])
    return decoder.finish()


def decode_tokens(section: Section, payload: bytes, header: Header) -> TokenIds:
    """A chunk's tokens from their section.

    Raises:
        IntegrityError: in another format, or not those of the header's digest.
    """
    size = 4 * header.tokens
    try:
        if section.codec_id != CodecId.TOKEN_IDS or zstandard.frame_content_size(payload) != size:
            raise IntegrityError(f"expected {header.tokens} token ids; the section holds another number or format")
        raw = zstandard.ZstdDecompressor().decompress(payload, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"expected token ids in a zstd frame; got {error}") from None
    token_ids = np.frombuffer(raw, "<u4").astype(np.uint32)
    if len(token_ids) != header.tokens or tokens_digest(token_ids) != header.tokens_digest:
        raise IntegrityError("expected the token ids of the header's digest; got others")
    return token_ids


def _decode_side(section: Section, payload: bytes, head: ContainerHead, received: int) -> SideInfo:
    if section.codec_id != CodecId.CONTEXT_LOG8:
        raise IntegrityError(
            f"expected side information of codec {int(CodecId.CONTEXT_LOG8)}; got codec {section.codec_id}: written by "
            "a newer kvquilt, or damaged",
            reason="unknown_codec",
        )
    return decode_side(payload, head.layout, head.header.tokens, decoded_allowance(received))


def verify(buffer: bytes | memoryview) -> ContainerHead:
    """Check a whole container's sizes, sections and checksums without decoding its tensors.

    Raises:
        IntegrityError: truncated, altered, or describing something impossible.
    """
    view = memoryview(buffer)
    head = parse_head(view)
    if len(view) != head.total_bytes:
        raise IntegrityError(f"expected a container of {head.total_bytes} bytes; got {len(view)}")
    check_complete(head, range(len(head.layout.layers)), head.sections, head.quality_layers)
    for section in head.sections:
        check_section(section, view[section.offset : section.offset + section.length])
    return head


def check_section(section: Section, payload: bytes | memoryview) -> None:
    """Check a section's bytes against the index.

    Raises:
        IntegrityError: the checksum differs.
    """
    check_checksum(section, xxhash.xxh3_128_digest(payload))


def check_checksum(section: Section, digest: bytes) -> None:
    """Check the xxh3-128 of a section's bytes against the index.

    Raises:
        IntegrityError: it differs.
    """
    if digest != section.checksum:
        raise IntegrityError(
            f"expected the checksum of {section.part.name} of block {section.token_block}, layer {section.layer} "
            "to match; it does not: damaged",
            reason="checksum",
        )
