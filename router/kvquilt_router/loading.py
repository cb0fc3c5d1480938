"""Sends the exact head of a prompt: fetch and decode, layer by layer. Nothing is computed by the model.

Runs beside the engine's thread: whoever loads need not wait for blends.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence

from kvquilt_codec.errors import UnavailableError
from kvquilt_router.arriving import Arrivals
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import wire_bytes
from kvquilt_router.fetching import Fetcher
from kvquilt_router.heads import Head
from kvquilt_router.placement import ChunkPart, FetchedChunk, fits
from kvquilt_router.types import ChunkOutcome, Key, Sent, key_of
from kvquilt_rpc import spans
from kvquilt_rpc.admission import Slots


class HeadLoader:
    """Loads exact heads of one model's prompts.

    Args:
        slots: of loads: each holds a head's whole KV.
        fetch_deadline: seconds that chunks may take to come.
    """

    def __init__(self, engine: Engine, fetcher: Fetcher, *, slots: Slots, fetch_deadline: float) -> None:
        self._engine = engine
        self._fetcher = fetcher
        self._slots = slots
        self._fetch_deadline = fetch_deadline

    async def load(self, head: Head, first: int) -> AsyncGenerator[Sent | memoryview, None]:
        """KV of the head's tokens from `first` on: of which tokens it is, then keys and values of each layer in order.

        Each item of bytes is one tensor `[kv_heads, tokens, dim]`. Begins when the first layer of all chunks has come,
        or when it is known that something will not: then the head ends before that. What does not come is missed: its
        outcome says why.

        Raises:
            UnavailableError: a chunk was lost after the beginning (reason `fetch_failed`).
            CapacityError: too many wait, or it would be late.
        """
        async with spans.waited("kvquilt.wait", self._slots.turn()):
            keys = {key_of(outcome.found) for outcome in head.chunks if outcome.found is not None}
            arrivals = Arrivals(keys, len(self._engine.traits.layout.layers), self._fetch_deadline)
            fetching = asyncio.create_task(self._fetcher.fetch(head.chunks, (), arrivals))
            fetching.add_done_callback(lambda _: arrivals.move())
            sending: spans.Span = spans.NOTHING
            try:
                described = await self._described(head, arrivals, fetching)
                if described is None:
                    chunks = await fetching
                    usable = _before_gap(head.chunks)
                    arrived: Mapping[Key, FetchedChunk] = chunks
                else:
                    usable, arrived = head.chunks, described
                end = max(first, usable[-1].ref.end if usable else first)
                yield Sent(first, end)
                if end > first:
                    sending = spans.span("kvquilt.send", tokens=end - first)
                    filled = _Filled(self._engine, usable, arrived, first, end)
                    for layer in range(len(self._engine.traits.layout.layers)):
                        if described is not None:
                            await self._come(layer, arrivals, fetching)
                        for tensor in await asyncio.to_thread(filled.layer, layer):
                            yield tensor
                await fetching
                if described is not None and arrivals.failed:
                    raise _lost("the end")
            finally:
                sending.end()
                arrivals.fail()
                fetching.cancel()
                await asyncio.gather(fetching, return_exceptions=True)

    async def _described(
        self, head: Head, arrivals: Arrivals, fetching: "asyncio.Task[object]"
    ) -> Mapping[Key, FetchedChunk] | None:
        """The chunks as soon as all have their first layer; `None`: all must come first, or do not."""
        while (chunks := arrivals.described()) is None or not arrivals.have(0):
            if fetching.done() or arrivals.failed:
                return None
            await arrivals.moved()
        found = [(outcome, chunks[key_of(outcome.found)]) for outcome in head.chunks if outcome.found is not None]
        return chunks if all(fits(outcome, chunk) for outcome, chunk in found) else None

    async def _come(self, layer: int, arrivals: Arrivals, fetching: "asyncio.Task[object]") -> None:
        while not arrivals.have(layer):
            if arrivals.failed or fetching.done():
                raise _lost(f"layer {layer}")
            await arrivals.moved()


class _Filled:
    """The KV of the tokens from `first` to `end`, filled layer by layer."""

    def __init__(
        self,
        engine: Engine,
        outcomes: Sequence[ChunkOutcome],
        chunks: Mapping[Key, FetchedChunk],
        first: int,
        end: int,
    ) -> None:
        self._kv = engine.empty(end, first)
        self._parts: list[tuple[int, ChunkPart]] = []
        for outcome in outcomes:
            if outcome.found is not None:
                begin = max(first, outcome.ref.begin)
                skipped = begin - outcome.ref.begin
                part = ChunkPart(chunks[key_of(outcome.found)], skipped, len(outcome.ref.token_ids) - skipped)
                self._parts.append((begin, part))
                self._kv.reserve(begin, begin + part.tokens, part.rotated_from)
        self._rotations = engine.rotations(self._kv)

    def layer(self, index: int) -> list[memoryview]:
        """Keys and values of one layer, which all chunks have."""
        for begin, part in self._parts:
            self._kv.write(index, begin, part.layer(index))
        self._rotations.rotate(index)
        tensors = self._kv.layers[index]
        return [wire_bytes(tensors.keys), wire_bytes(tensors.values)]


def _lost(what: str) -> UnavailableError:
    return UnavailableError(
        f"expected {what} of all chunks; one was lost while it was sent: compute the prompt", reason="fetch_failed"
    )


def _before_gap(outcomes: Sequence[ChunkOutcome]) -> list[ChunkOutcome]:
    """Chunks up to the first that was lost."""
    kept: list[ChunkOutcome] = []
    for outcome in outcomes:
        if outcome.found is None:
            break
        kept.append(outcome)
    return kept
