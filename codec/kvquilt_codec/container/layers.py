"""Where decoded sections go: the tensors of the layers that a reader asked for."""

from collections.abc import Callable
from typing import Protocol

import numpy as np

from kvquilt_codec.container.head import ContainerHead, Section, check_expansion
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError
from kvquilt_codec.joint import BlockDecoder, JointCoder
from kvquilt_codec.joint.exact import decode_exact
from kvquilt_codec.section import codec_by_id
from kvquilt_codec.types import TOKEN_BLOCK, Array, CodecId, KVLayout, LayerKV, Part

Coders = Callable[[str], JointCoder]
"""The coder of a profile's digest.

Raises:
    NotFoundError: the profile is not at hand.
"""


class SectionSink(Protocol):
    """Takes the sections of keys and values in file order."""

    def take(self, section: Section, payload: bytes, received: int) -> None:
        """Decode a section; `received` bytes of the container have come so far.

        Raises:
            IntegrityError: a section that cannot be, or a payload that is none.
        """


class Tensors:
    """Keys and values of the layers in `layers`, allocated when the first of their bytes has come."""

    def __init__(self, head: ContainerHead, layers: range) -> None:
        self.layers = layers
        self._head = head
        self._kv: dict[int, LayerKV] = {}

    def block(self, section: Section, received: int) -> LayerKV:
        """The part of a layer's tensors that a section of it belongs to."""
        header = self._head.header
        if section.layer not in self._kv:
            # By what has come, not by what the head promises: the rest may never come.
            shapes = tuple(self._head.layout.layers[layer] for layer in (*self._kv, section.layer))
            check_expansion(KVLayout(header.data_type, shapes), header.tokens, received)
            self._kv[section.layer] = _empty_layer(self._head.layout, section.layer, header.tokens)
        layer = self._kv[section.layer]
        rows = slice(section.token_block * TOKEN_BLOCK, (section.token_block + 1) * TOKEN_BLOCK)
        return LayerKV(layer.keys[rows], layer.values[rows])

    def layer(self, layer: int) -> LayerKV:
        """A layer's tensors; only after all of its sections have been taken."""
        return self._kv[layer]

    def all(self) -> tuple[LayerKV, ...]:
        """Every layer in order; only after all sections have been taken."""
        return tuple(self._kv[layer] for layer in self.layers)


class ApartSink:
    """Keys and values in sections of their own."""

    def __init__(self, tensors: Tensors) -> None:
        self._tensors = tensors

    def take(self, section: Section, payload: bytes, received: int) -> None:
        """See `SectionSink.take`."""
        if section.part not in (Part.KEYS, Part.VALUES):
            raise IntegrityError(f"expected keys or values; got a section of {section.part.name}")
        block = self._tensors.block(section, received)
        codec_by_id(section.codec_id).decode(payload, block.keys if section.part is Part.KEYS else block.values)


class JointSink:
    """Keys and values together, in quality layers.

    The payloads of a token block are kept until a layer has all that was asked for: they are a fraction of what they
    decode to.
    """

    def __init__(self, tensors: Tensors, head: ContainerHead, quality_layers: int, coder: JointCoder) -> None:
        self._tensors = tensors
        self._head = head
        self._quality_layers = quality_layers
        self._coder = coder
        self._block = -1
        self._decoder = BlockDecoder(coder, 0)
        self._payloads: dict[int, list[bytes]] = {}
        self._exact: dict[int, bytes] = {}

    def take(self, section: Section, payload: bytes, received: int) -> None:
        """See `SectionSink.take`."""
        if section.token_block != self._block:
            self._block = section.token_block
            self._decoder = BlockDecoder(self._coder, self._head.header.tokens_in(self._block))
            self._payloads.clear()
            self._exact.clear()
        layer = section.layer
        if section.part is Part.SIDE:
            if section.codec_id != CodecId.EXACT_TOKENS or section.quality_layer:
                raise IntegrityError("expected exact tokens in quality layer 0; got other side information")
            self._exact[layer] = payload
            return
        expected = self._coder.codec_id(section.quality_layer)
        if section.part is not Part.JOINT or section.codec_id != expected:
            raise IntegrityError(
                f"expected a joint section of codec {int(expected)}; got {section.part.name} of {section.codec_id}"
            )
        self._payloads.setdefault(layer, []).append(payload)
        if layer in self._tensors.layers and section.quality_layer == self._quality_layers - 1:
            for earlier in sorted(self._payloads):
                if earlier < layer:
                    self._decoder.decode(earlier, self._payloads.pop(earlier), None)
            block = self._tensors.block(section, received)
            self._decoder.decode(layer, self._payloads.pop(layer), block)
            if layer in self._exact:
                decode_exact(self._exact.pop(layer), block.keys, block.values)


def open_sink(head: ContainerHead, tensors: Tensors, quality_layers: int | None, coders: Coders | None) -> SectionSink:
    """The sink that a container needs.

    Raises:
        NotFoundError: it needs a profile that is not at hand.
        IntegrityError: the profile is not for this container.
    """
    digest = head.header.profile_digest
    if not digest:
        return ApartSink(tensors)
    if coders is None:
        raise NotFoundError(f"expected the profile {digest[:16]}... of the container; no profile is at hand")
    coder = coders(digest)
    if coder.digest != digest or coder.profile.model_fingerprint != head.header.model_fingerprint:
        raise IntegrityError("expected a container of its profile's model; its header names another model")
    try:
        coder.profile.check_layout(head.layout)
    except BadRequestError as error:
        raise IntegrityError(str(error)) from None
    depth = head.quality_layers
    if depth != len(coder.profile.quality):
        raise IntegrityError(f"expected {len(coder.profile.quality)} quality layers; the container has {depth}")
    return JointSink(tensors, head, depth if quality_layers is None else quality_layers, coder)


def check_complete(head: ContainerHead, layers: range, sections: tuple[Section, ...], quality_layers: int) -> None:
    """Refuse an index that lacks a tensor.

    Raises:
        IntegrityError: keys or values of a block and layer are missing in one of the quality layers.
    """
    parts = (Part.JOINT,) if head.header.profile_digest else (Part.KEYS, Part.VALUES)
    expected = {
        (block, quality, layer, part)
        for block in range(head.header.token_blocks)
        for quality in range(quality_layers)
        for layer in layers
        for part in parts
    }
    earlier = {
        (block, 0, layer, Part.JOINT)
        for block in range(head.header.token_blocks)
        for layer in range(layers.start)
        if any(s.codec_id == CodecId.JOINT_PREDICTED for s in sections)
    }
    if missing := (expected | earlier) - {(s.token_block, s.quality_layer, s.layer, s.part) for s in sections}:
        raise IntegrityError(f"expected keys and values of every block and layer; {len(missing)} are missing")


def _empty_layer(layout: KVLayout, layer: int, tokens: int) -> LayerKV:
    def empty(part: Part) -> Array:
        return np.empty(layout.layers[layer].of(part, tokens), layout.data_type.numpy)

    return LayerKV(empty(Part.KEYS), empty(Part.VALUES))
