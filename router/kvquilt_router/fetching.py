"""Looks chunks up and fetches them. Whatever fails here becomes a miss with a reason; a request never fails for it."""

import asyncio
import logging
from collections.abc import Sequence

import numpy as np

from kvquilt_codec import errors
from kvquilt_codec.container import ContainerDecoder
from kvquilt_codec.types import KVChunk, VariantKind
from kvquilt_router.types import ChunkOutcome, ChunkRef
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
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


class Fetcher:
    """Fetches chunks of one model from the cache node."""

    def __init__(
        self,
        node: NodeClient,
        model_fingerprint: str,
        counters: Counters,
        *,
        stat_deadline: float,
        fetch_deadline: float,
        concurrency: int,
    ) -> None:
        self._node = node
        self._fingerprint = model_fingerprint
        self._counters = counters
        self._stat_deadline = stat_deadline
        self._fetch_deadline = fetch_deadline
        self._concurrency = concurrency
        self._cleaning: set[asyncio.Task[None]] = set()

    async def look_up(self, refs: Sequence[ChunkRef]) -> list[ChunkOutcome]:
        """Which chunks the node has, without fetching them."""
        keys = list({ref.object_key for ref in refs})
        try:
            found = await self._node.stat(keys, deadline=self._stat_deadline)
        except errors.KvquiltError as error:
            log.warning("look-up failed: %s", error)
            reason = "lookup_deadline" if isinstance(error, errors.DeadlineError) else miss_reason(error)
            return [ChunkOutcome(ref, reason) for ref in refs]
        return [ChunkOutcome(ref, "" if ref.object_key in found else "not_stored") for ref in refs]

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
        received = 0
        try:
            async with slots:
                decoder = ContainerDecoder(self._fingerprint)
                pieces = self._node.get(ref.object_key, self._fingerprint, deadline=self._fetch_deadline)
                async for piece in pieces:
                    if isinstance(piece, bytes):
                        received += len(piece)
                        await asyncio.to_thread(decoder.feed, piece)
                chunk = decoder.finish().chunk()
                _check(ref, chunk)
                return chunk, "", received
        except errors.KvquiltError as error:
            log.warning("chunk %s missed: %s", ref.object_key.hex()[:16], error)
            if isinstance(error, errors.IntegrityError):
                self._forget(ref.object_key)
            return None, miss_reason(error), received

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


def _check(ref: ChunkRef, chunk: KVChunk) -> None:
    """Compare tokens, not only hashes, and the place of an exact variant's keys."""
    if not np.array_equal(chunk.token_ids, ref.token_ids):
        raise errors.IntegrityError("expected the KV of the chunk's tokens; the object holds other tokens")
    if ref.kind is VariantKind.EXACT and chunk.rotated_from != ref.begin:
        raise errors.IntegrityError(
            f"expected keys for position {ref.begin}; the object's are for {chunk.rotated_from}"
        )
