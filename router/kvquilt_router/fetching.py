"""Fetches chunks that were found. Whatever fails here becomes a miss with a reason; a request never fails for it."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kvquilt_codec import errors
from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.container import ContainerDecoder, DecodedChunk, HeldContainer
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.tiers import Tier
from kvquilt_router.arriving import Arrivals
from kvquilt_router.holding import HeldChunks
from kvquilt_router.misses import miss_reason
from kvquilt_router.placement import check_fits
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.types import ChunkOutcome, Found, Key, key_of
from kvquilt_rpc import convert, spans
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.metrics.codec import CodecMeter, Stopwatch
from kvquilt_rpc.node_batches import Piece
from kvquilt_rpc.nodes import CacheNodes, ObjectBatch, ObjectPieces, ObjectRef

log = logging.getLogger(__name__)


class Fetcher:
    """Fetches chunks of one model from cache nodes; `meter` is told what decoding takes."""

    def __init__(
        self,
        nodes: CacheNodes,
        model_fingerprint: str,
        counters: Counters,
        profile: ModelProfile,
        held: HeldChunks,
        *,
        forget_deadline: float,
        fetch_deadline: float,
        concurrency: int,
        meter: CodecMeter,
    ) -> None:
        self._meter = meter
        self._nodes = nodes
        self._fingerprint = model_fingerprint
        self._counters = counters
        self._profile = profile
        self._held = held
        self._forget_deadline = forget_deadline
        self._fetch_deadline = fetch_deadline
        self._concurrency = concurrency
        self._cleaning: set[asyncio.Task[None]] = set()

    @spans.traced("kvquilt.fetch")
    async def fetch(
        self, outcomes: Sequence[ChunkOutcome], guessed: Sequence[ChunkOutcome], arrivals: Arrivals
    ) -> dict[Key, DecodedChunk]:
        """Fetch and decode what was found, in parallel, within the fetch deadline.

        Outcomes whose chunk does not come lose it and get the reason; every outcome is counted. An object that occurs
        twice is fetched once.

        Args:
            outcomes: whose chunks must have their tokens.
            guessed: whose chunks need not, and are not counted.
            arrivals: told of what comes; they have failed at the end if a chunk did not come or cannot be used.

        Returns:
            The chunks that came.
        """
        chunks, reasons, received = await self._fetch_found([*guessed, *outcomes], arrivals)
        for outcome in guessed:
            if outcome.found is not None:
                key = key_of(outcome.found)
                if reasons[key]:
                    outcome.found = None
                else:
                    outcome.tier = received[key].tier
        for outcome in outcomes:
            if outcome.found is not None and not reasons[key_of(outcome.found)]:
                reasons[key_of(outcome.found)] = self._checked(outcome, outcome.found, chunks[key_of(outcome.found)])
            if outcome.found is not None:
                key = key_of(outcome.found)
                if key in received:
                    outcome.fetched_bytes = received[key].taken()
                if reasons[key]:
                    outcome.found, outcome.miss_reason = None, reasons[key]
                else:
                    outcome.tier = received[key].tier
            if outcome.found is None:
                self._counters.add(f"chunks_missed_{outcome.miss_reason}")
            else:
                self._counters.add("chunks_hit")
                self._counters.add(f"chunks_hit_{outcome.found.context}")
        if any(reasons.values()):
            arrivals.fail()
        missed = sum(map(bool, reasons.values()))
        spans.note(chunks=len(chunks), failed=missed, bytes=sum(o.fetched_bytes for o in outcomes))
        return chunks

    async def _fetch_found(
        self, outcomes: Sequence[ChunkOutcome], arrivals: Arrivals
    ) -> tuple[dict[Key, DecodedChunk], dict[Key, str], dict[Key, "_Received"]]:
        """Chunks that came, the reason (or "") for each that was tried, and what was received in time."""
        wanted = {key_of(outcome.found): outcome.found for outcome in outcomes if outcome.found is not None}
        together = {} if self._held.capacity else wanted
        asked = [(ObjectRef.of(found.info), point.quality_layers) for (_, point), found in together.items()]
        slots = asyncio.Semaphore(self._concurrency)
        async with self._nodes.batch(asked, self._fingerprint, deadline=self._fetch_deadline) as batch:
            tasks = {
                key: asyncio.create_task(self._fetch_one(found, key[1], batch, slots, arrivals))
                for key, found in wanted.items()
            }
            try:
                if tasks:
                    await asyncio.wait(tasks.values(), timeout=self._fetch_deadline)
            finally:
                # Late ones, and all of them if the request itself is cancelled.
                for task in tasks.values():
                    task.cancel()
                await asyncio.gather(*tasks.values(), return_exceptions=True)
        chunks: dict[Key, DecodedChunk] = {}
        reasons: dict[Key, str] = {}
        received: dict[Key, _Received] = {}
        for key, task in tasks.items():
            if task.cancelled():
                reasons[key] = "fetch_deadline"
                continue
            chunk, reasons[key], received[key] = task.result()
            if chunk is not None:
                chunks[key] = chunk
        return chunks, reasons, received

    async def _fetch_one(
        self, found: Found, point: OperatingPoint, batch: ObjectBatch, slots: asyncio.Semaphore, arrivals: Arrivals
    ) -> tuple[DecodedChunk | None, str, "_Received"]:
        received = _Received()
        ref = ObjectRef.of(found.info)
        try:
            if self._held.capacity:
                async with slots:
                    return await self._continued(ref, point, received), "", received
            async with aclosing(batch.pieces(ref, point.quality_layers)) as pieces:
                return await self._streamed(ref, point, pieces, received, arrivals), "", received
        except errors.KvquiltError as error:
            arrivals.fail()
            arrivals.move()
            return None, self._missed(found.info, error), received

    def _checked(self, outcome: ChunkOutcome, found: Found, chunk: DecodedChunk) -> str:
        """The reason why a chunk that came cannot be used; empty if it can."""
        try:
            check_fits(outcome, chunk)
        except errors.KvquiltError as error:
            return self._missed(found.info, error)
        return ""

    def _missed(self, info: ObjectInfo, error: errors.KvquiltError) -> str:
        log.warning("chunk %s missed: %s", info.key.hex()[:16], error)
        self._held.drop(info.key)
        if isinstance(error, errors.IntegrityError):
            self._forget(info)
        return miss_reason(error)

    @spans.traced("kvquilt.decode")
    async def _streamed(
        self, ref: ObjectRef, point: OperatingPoint, pieces: ObjectPieces, received: "_Received", arrivals: Arrivals
    ) -> DecodedChunk:
        """Decode while bytes arrive, and keep none of them."""
        depth = point.quality_layers
        arriving = arrivals.begin((ref.key, point))
        decoder = ContainerDecoder(self._fingerprint, None, depth or None, self._profile.coder, arriving.completed)
        arriving.decoder = decoder
        watch = Stopwatch()

        def feed(data: bytes) -> None:
            with watch.running():
                decoder.feed(data)

        async for piece in pieces:
            received.add(piece)
            if isinstance(piece, bytes):
                await asyncio.to_thread(feed, piece)
                arriving.received = received.bytes
                arrivals.move()
        chunk = decoder.finish()
        self._meter.coded("decode", watch.seconds, received.bytes)
        tokens, tier = len(chunk.token_ids), received.tier.value
        spans.note(bytes=received.bytes, tokens=tokens, tier=tier, busy_seconds=watch.seconds)
        return chunk

    async def _continued(self, ref: ObjectRef, point: OperatingPoint, received: "_Received") -> DecodedChunk:
        """Fetch what is missing of what is held, and keep that too."""
        depth = point.quality_layers
        held = self._held.get(ref.key)
        if held is None or held.quality_layers < (depth or held.head.quality_layers):
            held = await self._extended(held, ref, depth, received)
            self._held.put(ref.key, held)
        watch = Stopwatch()
        with spans.span("kvquilt.decode", bytes=received.bytes, tier=received.tier.value), watch.running():
            chunk = await asyncio.to_thread(held.decode, self._profile.coder, depth or None)
        self._meter.coded("decode", watch.seconds, held.nbytes)
        return chunk

    async def _extended(
        self, held: HeldContainer | None, ref: ObjectRef, depth: int, received: "_Received"
    ) -> HeldContainer:
        deadline = self._fetch_deadline
        if held is not None:
            try:
                return await self._nodes.upgrade(
                    ref, self._fingerprint, held, quality_layers=depth, deadline=deadline, received=received.add
                )
            except errors.IntegrityError as error:
                log.info("chunk %s is fetched as a whole: %s", ref.key.hex()[:16], error)
        return await self._nodes.read(
            ref, self._fingerprint, quality_layers=depth, deadline=deadline, received=received.add
        )

    def _forget(self, info: ObjectInfo) -> None:
        """Let the nodes drop a damaged object, so that it can be stored again; off the request's path."""

        async def forget() -> None:
            try:
                with acting_in(info.meta.namespace):
                    await self._nodes.forget(keys=[info.key], deadline=self._forget_deadline, damaged=True)
            except errors.KvquiltError as error:
                log.warning("a damaged object could not be dropped: %s", error)

        task = asyncio.create_task(forget())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


@dataclass(slots=True)
class _Received:
    """What came for one chunk, also if it is missed in the end.

    Attributes:
        bytes: of it.
        tier: that a node read it from; the router's own memory as long as nothing comes.
    """

    bytes: int = 0
    tier: Tier = Tier.ROUTER

    def add(self, piece: Piece) -> None:
        """Some more came."""
        if isinstance(piece, bytes):
            self.bytes += len(piece)
        else:
            self.tier = convert.tier_from_wire(piece.tier)

    def taken(self) -> int:
        """The bytes, for whoever asks first: what is used twice came once."""
        taken, self.bytes = self.bytes, 0
        return taken
