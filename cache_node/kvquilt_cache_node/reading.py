"""The node's work on objects that go out: read, verify and decode them. No gRPC here."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kvquilt_cache_node.heads import Heads
from kvquilt_cache_node.profiles import Profiles
from kvquilt_cache_node.store.answering import listening
from kvquilt_cache_node.types import Namespaces, ObjectReading, Store
from kvquilt_codec import container
from kvquilt_codec.container import ArrivingContainer, ContainerHead, DecodedChunk
from kvquilt_codec.container.decoder import check_section
from kvquilt_codec.container.head import PREFIX, Section
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import KVLayout
from kvquilt_rpc import spans
from kvquilt_rpc.metrics.codec import CodecMeter, Stopwatch

STEP_BYTES = 1 << 20
"""Bytes that are verified at once: they are sent while they are still in the CPU's cache."""

Buffers = Sequence[bytes | memoryview]
"""Bytes one after the other."""


@dataclass(frozen=True, slots=True)
class Opening:
    """What a read begins with: the object's head, how many bytes follow, and their layout if they are tensors.

    Attributes:
        tier: that they come from; if they were read in parts from several, the slowest of them.
    """

    head: ContainerHead
    nbytes: int
    tier: Tier
    layout: KVLayout | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What of an object is asked for.

    Attributes:
        layers: model layers; `None`: all.
        quality_layers: how many, the coarsest first; `None`: all.
        held: how many of them the caller has already.
        decoded: raw tensors instead of sections.

    Raises:
        BadRequestError: nothing, or tensors of which a part is held elsewhere.
    """

    layers: range | None = None
    quality_layers: int | None = None
    held: int = 0
    decoded: bool = False

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise BadRequestError(f"expected a range of at least one layer; got {self.layers}")
        if self.decoded and self.held:
            raise BadRequestError("expected an encoded read of the quality layers that are missing; got decoded")


EVERYTHING = Asked()


class Reader:
    """Reads objects of a store. Nothing comes that was not verified after the store gave it."""

    def __init__(self, store: Store, profiles: Profiles, meter: CodecMeter) -> None:
        self._meter = meter
        self._store = store
        self._profiles = profiles
        self._heads = Heads()

    async def read(
        self, key: bytes, model_fingerprint: str, asked: Asked, namespaces: Namespaces = None
    ) -> AsyncGenerator[Opening | Buffers, None]:
        """Read an object, or a part of it and no more, for a caller that runs `model_fingerprint`; a use of it.

        Gives and raises what `read_from` does.

        Raises:
            NotFoundError: no such object of these namespaces.
        """
        async with (
            self._store.reading(key, namespaces) as source,
            aclosing(self.read_from(source, key, model_fingerprint, asked)) as found,
        ):
            async for item in found:
                yield item

    async def read_from(
        self, source: ObjectReading, key: bytes, model_fingerprint: str, asked: Asked
    ) -> AsyncGenerator[Opening | Buffers, None]:
        """Read an object, or a part of it, from what the store gives of it.

        Gives an `Opening`, then its bytes: of a whole object the first while the last are being read.

        Raises:
            NotFoundError: no such object, or (decoded) not the profile that it is coded with.
            FingerprintMismatchError: it is of another model.
            IntegrityError: its bytes are damaged; it is deleted, so that it can be stored again.
            BadRequestError: layers or quality layers that the object has not.
        """
        try:
            if asked == EVERYTHING:
                found = self._whole(source, model_fingerprint)
            else:
                found = self._part(source, model_fingerprint, asked)
            async with aclosing(found):
                async for item in found:
                    yield item
        except IntegrityError as error:
            # What a caller mistook for an object (a profile) stays.
            if error.reason != "profile_damaged" and await self._store.stat([key]):
                await self._store.forget([key], [], reason="damaged")
            raise

    async def _whole(self, source: ObjectReading, model_fingerprint: str) -> AsyncGenerator[Opening | Buffers, None]:
        arriving = ArrivingContainer(self._heads.parse)
        opened = False
        async with aclosing(source.pieces()) as pieces:
            while True:
                with listening() as heard:
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                for begin in range(0, len(piece), STEP_BYTES):
                    verified = arriving.feed(memoryview(piece)[begin : begin + STEP_BYTES])
                    if not opened and arriving.head is not None:
                        opened = True
                        arriving.head.check_fingerprint(model_fingerprint)
                        yield Opening(arriving.head, arriving.head.total_bytes, heard.tier)
                    yield verified
        arriving.finish()

    async def _part(
        self, source: ObjectReading, model_fingerprint: str, asked: Asked
    ) -> AsyncGenerator[Opening | Buffers, None]:
        with listening() as heard:
            (prefix,) = await source.read([(0, PREFIX.size)])
            (head_data,) = await source.read([(0, container.head_bytes(prefix))])
            head = self._heads.parse(head_data)
            head.check_fingerprint(model_fingerprint)
            layers = range(len(head.layout.layers)) if asked.layers is None else asked.layers
            found = await source.read(head.byte_ranges(layers, asked.quality_layers, asked.held))
        buffers: Buffers = [head_data, *found]
        layout = None
        if asked.decoded:
            digest = head.header.profile_digest
            coder = await self._profiles.coder(digest) if digest else None
            chunk = await asyncio.to_thread(self._decode, head, buffers, layers, asked, coder)
            buffers = [tensor.tobytes() for layer in chunk.kv for tensor in (layer.keys, layer.values)]
            layout = KVLayout(head.layout.data_type, head.layout.layers[layers.start : layers.stop])
        else:
            _check(head.select(layers, asked.quality_layers, asked.held), found)
        yield Opening(head, sum(map(len, buffers)), heard.tier, layout)
        yield buffers

    def _decode(
        self, head: ContainerHead, pieces: Buffers, layers: range, asked: Asked, coder: JointCoder | None
    ) -> DecodedChunk:
        watch = Stopwatch()
        with watch.running():
            chunk = _decode(head, pieces, layers, asked, coder)
        self._meter.coded("decode", watch.seconds, sum(map(len, pieces)))
        return chunk


def _check(sections: Sequence[Section], pieces: Sequence[bytes]) -> None:
    """Verify sections that lie one after the other in pieces, none across two."""
    waiting = iter(pieces)
    view = memoryview(b"")
    for section in sections:
        if not view:
            view = memoryview(next(waiting, b""))
        check_section(section, view[: section.length])
        view = view[section.length :]


def _decode(
    head: ContainerHead, pieces: Buffers, layers: range, asked: Asked, coder: JointCoder | None
) -> DecodedChunk:
    coders = None if coder is None else lambda _: coder
    with spans.span("kvquilt.decode", tokens=head.header.tokens):
        decoder = container.ContainerDecoder(head.header.model_fingerprint, layers, asked.quality_layers, coders)
        for piece in pieces:
            decoder.feed(piece)
        return decoder.finish()
