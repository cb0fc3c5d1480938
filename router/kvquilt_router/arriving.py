"""Chunks on their way, seen by two threads: decoders complete their layers, the engine waits for them."""

import asyncio
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from kvquilt_codec.container import ContainerDecoder
from kvquilt_codec.types import LayerKV, SideInfo, TokenIds
from kvquilt_router.types import Key
from kvquilt_rpc import frames


class Abandoned(Exception):  # noqa: N818  no error: what was computed is not wanted any more
    """A chunk that was waited for does not come."""


@dataclass(slots=True, eq=False)
class ArrivingChunk:
    """One chunk while it is fetched.

    Attributes:
        changed: told of every layer.
        decoder: what decodes it; `None` until that is made.
        began: when it was asked for (`time.perf_counter`).
        received: bytes that came.
        complete: layers that are decoded; they come in order.
        completed_at: when the last of them was.
    """

    changed: threading.Condition
    decoder: ContainerDecoder | None = None
    began: float = field(default_factory=time.perf_counter)
    received: int = 0
    complete: int = 0
    completed_at: float = 0.0

    def completed(self, layer: int) -> None:
        """A layer is decoded. In any thread."""
        with self.changed:
            self.complete, self.completed_at = layer + 1, time.perf_counter()
            self.changed.notify_all()

    def described(self) -> "DescribedChunk | None":
        """The chunk, if all is known of it but its keys and values."""
        decoder = self.decoder
        if decoder is None or not decoder.described or decoder.head is None or decoder.token_ids is None:
            return None
        head = decoder.head
        layers = len(head.layout.layers)
        return DescribedChunk(self, decoder, decoder.token_ids, decoder.side, head.header.rotated_from, layers)


@dataclass(frozen=True, slots=True, eq=False)
class DescribedChunk:
    """A chunk that is known but for its keys and values, which still arrive; a `FetchedChunk`.

    Attributes:
        arriving: how far it is.
        decoder: what decodes it.
        token_ids, side, rotated_from: as of `DecodedChunk`.
        layers: of the model.
    """

    arriving: ArrivingChunk
    decoder: ContainerDecoder
    token_ids: TokenIds
    side: SideInfo | None
    rotated_from: int | None
    layers: int

    def layer(self, index: int) -> LayerKV:
        """Keys and values of a layer that is complete."""
        return self.decoder.layer(index)

    def seconds_until(self, layer: int, now: float) -> float:
        """How long until a layer is complete, at the rate that bytes came and were decoded so far, in whole frames."""
        received, missing = self.arriving.received, self.decoder.bytes_until(layer)
        if missing == 0:
            return 0.0
        end = -(-(received + missing) // frames.FRAME_BYTES) * frames.FRAME_BYTES
        last = received + self.decoder.bytes_until(self.layers - 1)
        return (min(end, last) - received) * (now - self.arriving.began) / max(1, received)


class Arrivals:
    """The chunks of one request while they are fetched. Made in the event loop.

    Args:
        keys: of the chunks that are waited for.
        layers: of the model.
        patience: seconds that a layer is waited for at most.

    Attributes:
        waited: seconds that were spent waiting for layers.
    """

    def __init__(self, keys: Collection[Key], layers: int, patience: float) -> None:
        self._layers = layers
        self._patience = patience
        self._chunks: dict[Key, ArrivingChunk | None] = dict.fromkeys(keys)
        self._changed = threading.Condition()
        self._failed = False
        self._moved = asyncio.Event()
        self.waited = 0.0

    # What a fetch says.

    def begin(self, key: Key) -> ArrivingChunk:
        """One of the chunks is asked for."""
        chunk = self._chunks[key] = ArrivingChunk(self._changed)
        return chunk

    def move(self) -> None:
        """Something came, or nothing more will. In the event loop."""
        self._moved.set()

    def fail(self) -> None:
        """A chunk does not come, or nobody wants it any more: whoever waits is woken. In any thread."""
        with self._changed:
            self._failed = True
            self._changed.notify_all()

    # What a blend asks.

    @property
    def failed(self) -> bool:
        """Whether a chunk does not come."""
        return self._failed

    async def moved(self) -> None:
        """Wait until something has come since the last call."""
        await self._moved.wait()
        self._moved.clear()

    def described(self) -> Mapping[Key, DescribedChunk] | None:
        """The chunks, if everything is known of all of them but their KV."""
        known = {key: None if chunk is None else chunk.described() for key, chunk in self._chunks.items()}
        chunks = {key: chunk for key, chunk in known.items() if chunk is not None}
        return chunks if chunks and len(chunks) == len(known) else None

    def seconds_until(self, chunks: Mapping[Key, DescribedChunk]) -> list[float]:
        """Per layer, how long until all chunks have it, by the rates so far."""
        now = time.perf_counter()
        return [max(chunk.seconds_until(layer, now) for chunk in chunks.values()) for layer in range(self._layers)]

    def wait(self, layer: int) -> None:
        """Wait, in the engine's thread, until all chunks have this layer.

        Raises:
            Abandoned: one of them does not come.
        """
        began = time.perf_counter()
        with self._changed:
            came = self._changed.wait_for(lambda: self._failed or self.have(layer), self._patience)
            self._failed = abandoned = self._failed or not came
            # Until the layer came: that the thread runs again some milliseconds later is not the chunks' fault.
            ended = max((chunk.completed_at for chunk in self._chunks.values() if chunk is not None), default=began)
        self.waited += max(0.0, ended - began)
        if abandoned:
            raise Abandoned

    def have(self, layer: int) -> bool:
        """Whether all chunks have this layer."""
        return all(chunk is not None and chunk.complete > layer for chunk in self._chunks.values())
