"""Looks chunks up and fetches them. Whatever fails here becomes a miss with a reason; a request never fails for it."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvquilt_codec import errors
from kvquilt_codec.container import ContainerDecoder, DecodedChunk, HeldContainer
from kvquilt_codec.types import KVChunk, VariantKind
from kvquilt_router.holding import HeldChunks
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.types import MISS_REASONS, ChunkOutcome, ChunkRef
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient

log = logging.getLogger(__name__)

_REASONS: tuple[tuple[type[errors.KvquiltError], str], ...] = (
    (errors.NotFoundError, "not_stored"),
    (errors.UnavailableError, "node_unavailable"),
    (errors.DeadlineError, "fetch_deadline"),
    (errors.IntegrityError, "damaged"),
    (errors.FingerprintMismatchError, "fingerprint_mismatch"),
    (errors.CapacityError, "node_busy"),
    (errors.KvquiltError, "node_error"),
)


def miss_reason(error: errors.KvquiltError) -> str:
    """The reason code of a miss; docs/reference.md lists them."""
    if error.reason in MISS_REASONS:
        return error.reason
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


class Fetcher:
    """Fetches chunks of one model from the cache node."""

    def __init__(
        self,
        node: NodeClient,
        model_fingerprint: str,
        counters: Counters,
        profile: ModelProfile,
        held: HeldChunks,
        *,
        stat_deadline: float,
        fetch_deadline: float,
        concurrency: int,
    ) -> None:
        self._node = node
        self._fingerprint = model_fingerprint
        self._counters = counters
        self._profile = profile
        self._held = held
        self._stat_deadline = stat_deadline
        self._fetch_deadline = fetch_deadline
        self._concurrency = concurrency
        self._cleaning: set[asyncio.Task[None]] = set()

    async def look_up(self, refs: Sequence[ChunkRef]) -> list[ChunkOutcome]:
        """Which chunks the node has, without fetching them."""
        unreadable = self._profile.miss_reason
        keys = list({ref.object_key for ref in refs if not (unreadable and ref.point.form.profile_digest)})
        try:
            found = await self._node.stat(keys, deadline=self._stat_deadline)
        except errors.KvquiltError as error:
            log.warning("look-up failed: %s", error)
            reason = "lookup_deadline" if isinstance(error, errors.DeadlineError) else miss_reason(error)
            return [ChunkOutcome(ref, reason) for ref in refs]
        outcomes = [ChunkOutcome(ref, "" if ref.object_key in found else "not_stored") for ref in refs]
        for outcome in outcomes:
            if unreadable and outcome.ref.point.form.profile_digest:
                outcome.miss_reason = unreadable
        return outcomes

    async def fetch(self, refs: Sequence[ChunkRef]) -> tuple[list[ChunkOutcome], dict[bytes, KVChunk]]:
        """Look up, fetch and decode chunks in parallel, within the fetch deadline.

        Returns:
            One outcome per ref, and the chunks that came, by object key. A chunk that occurs twice is fetched once.
        """
        outcomes = await self.look_up(refs)
        chunks, reasons, sizes = await self._fetch_found(outcomes)
        for outcome in outcomes:
            key = outcome.ref.object_key
            outcome.miss_reason = outcome.miss_reason or reasons[key]
            outcome.fetched_bytes = sizes.pop(key, 0)
            self._counters.add(f"chunks_missed_{outcome.miss_reason}" if outcome.miss_reason else "chunks_hit")
        return outcomes, chunks

    async def _fetch_found(
        self, outcomes: Sequence[ChunkOutcome]
    ) -> tuple[dict[bytes, KVChunk], dict[bytes, str], dict[bytes, int]]:
        """Chunks that came, the reason (or "") for each that was tried, and the bytes received; by object key."""
        wanted = {outcome.ref.object_key: outcome.ref for outcome in outcomes if not outcome.miss_reason}
        slots = asyncio.Semaphore(self._concurrency)
        tasks = {key: asyncio.create_task(self._fetch_one(ref, slots)) for key, ref in wanted.items()}
        try:
            if tasks:
                await asyncio.wait(tasks.values(), timeout=self._fetch_deadline)
        finally:
            # Late ones, and all of them if the request itself is cancelled.
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        chunks: dict[bytes, KVChunk] = {}
        reasons: dict[bytes, str] = {}
        sizes: dict[bytes, int] = {}
        for key, task in tasks.items():
            if task.cancelled():
                reasons[key] = "fetch_deadline"
                continue
            chunk, reasons[key], sizes[key] = task.result()
            if chunk is not None:
                chunks[key] = chunk
        return chunks, reasons, sizes

    async def _fetch_one(self, ref: ChunkRef, slots: asyncio.Semaphore) -> tuple[KVChunk | None, str, int]:
        received = _Received()
        try:
            async with slots:
                fetch = self._continued if self._held.capacity else self._streamed
                chunk = (await fetch(ref, received)).chunk()
                _check(ref, chunk)
                return chunk, "", received.bytes
        except errors.KvquiltError as error:
            log.warning("chunk %s missed: %s", ref.object_key.hex()[:16], error)
            self._held.drop(ref.object_key)
            if isinstance(error, errors.IntegrityError):
                self._forget(ref.object_key)
            return None, miss_reason(error), received.bytes

    async def _streamed(self, ref: ChunkRef, received: "_Received") -> DecodedChunk:
        """Decode while bytes arrive, and keep none of them."""
        depth = ref.point.quality_layers
        decoder = ContainerDecoder(self._fingerprint, None, depth or None, self._profile.coder)
        pieces = self._node.get(ref.object_key, self._fingerprint, deadline=self._fetch_deadline, quality_layers=depth)
        async for piece in pieces:
            if isinstance(piece, bytes):
                received.add(len(piece))
                await asyncio.to_thread(decoder.feed, piece)
        return decoder.finish()

    async def _continued(self, ref: ChunkRef, received: "_Received") -> DecodedChunk:
        """Fetch what is missing of what is held, and keep that too."""
        depth = ref.point.quality_layers
        held = self._held.get(ref.object_key)
        if held is None or held.quality_layers < (depth or held.head.quality_layers):
            held = await self._extended(held, ref, received)
            self._held.put(ref.object_key, held)
        return await asyncio.to_thread(held.decode, self._profile.coder, depth or None)

    async def _extended(self, held: HeldContainer | None, ref: ChunkRef, received: "_Received") -> HeldContainer:
        key, depth, deadline = ref.object_key, ref.point.quality_layers, self._fetch_deadline
        if held is not None:
            try:
                return await self._node.upgrade(
                    key, self._fingerprint, held, quality_layers=depth, deadline=deadline, received=received.add
                )
            except errors.IntegrityError as error:
                log.info("chunk %s is fetched as a whole: %s", key.hex()[:16], error)
        return await self._node.read(
            key, self._fingerprint, quality_layers=depth, deadline=deadline, received=received.add
        )

    def _forget(self, key: bytes) -> None:
        """Let the node drop a damaged object, so that it can be stored again; off the request's path."""

        async def forget() -> None:
            try:
                await self._node.forget(keys=[key], deadline=self._stat_deadline)
            except errors.KvquiltError as error:
                log.warning("a damaged object could not be dropped: %s", error)

        task = asyncio.create_task(forget())
        self._cleaning.add(task)
        task.add_done_callback(self._cleaning.discard)


@dataclass(slots=True)
class _Received:
    """Bytes that came for one chunk, also if it is missed in the end."""

    bytes: int = 0

    def add(self, count: int) -> None:
        """Count some more."""
        self.bytes += count


def _check(ref: ChunkRef, chunk: KVChunk) -> None:
    """Compare tokens, not only hashes, and the place of an exact variant's keys."""
    if not np.array_equal(chunk.token_ids, ref.token_ids):
        raise errors.IntegrityError("expected the KV of the chunk's tokens; the object holds other tokens")
    if ref.kind is VariantKind.EXACT and chunk.rotated_from != ref.begin:
        raise errors.IntegrityError(
            f"expected keys for position {ref.begin}; the object's are for {chunk.rotated_from}"
        )
