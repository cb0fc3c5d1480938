"""Computes and stores the KV of documents: prefetch on request, backfill of what requests missed."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from kvquilt_codec import catalog, container, errors
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.identity import context_digest
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.types import KVChunk, Level, TokenIds, VariantKind
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.planning import Planner
from kvquilt_router.profiles import ModelProfile
from kvquilt_router.types import ChunkOutcome, ChunkRef
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import NodeClient

log = logging.getLogger(__name__)

_PREFIXES_KEPT = 4


@dataclass(slots=True)
class PrefetchResult:
    """What became of one document's chunks."""

    document_id: str
    tokens: int
    stored: int = 0
    present: int = 0
    failed: int = 0
    failure_reason: str = ""
    stored_bytes: int = 0
    compute_seconds: float = 0.0


class Precomputer:
    """Computes chunks after their context and puts them to the cache node."""

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        planner: Planner,
        node: NodeClient,
        model_fingerprint: str,
        counters: Counters,
        profile: ModelProfile,
        *,
        stat_deadline: float,
        put_deadline: float,
        queue_length: int,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._planner = planner
        self._node = node
        self._fingerprint = model_fingerprint
        self._counters = counters
        self._profile = profile
        self._stat_deadline = stat_deadline
        self._put_deadline = put_deadline
        self._prefixes: dict[bytes, list[LayerTensors]] = {}
        self._queue: asyncio.Queue[ChunkRef] = asyncio.Queue(queue_length)
        self._queued: set[bytes] = set()

    async def document(
        self, document_id: str, prefix: TokenIds, tokens: TokenIds, point: OperatingPoint
    ) -> PrefetchResult:
        """Store every chunk of a document (and the shared prefix) that is not stored yet.

        A chunk that cannot be stored is counted in the result; the others go on.

        Raises:
            BadRequestError: no tokens, or more than the model's context after the prefix.
        """
        result = PrefetchResult(document_id, len(tokens))
        refs = [*self._planner.prefix(prefix), *self._planner.document(prefix, tokens, point)]
        for ref in refs:
            self._engine.check(ref.token_ids, len(ref.context) + len(ref.token_ids))
        try:
            shared = [ref.object_key for ref in refs if ref.kind is VariantKind.EXACT]
            own = [ref.object_key for ref in refs if ref.kind is not VariantKind.EXACT]
            found = set(await self._node.stat(shared, deadline=self._stat_deadline))
            found |= await self._node.touch(own, [document_id], deadline=self._stat_deadline)
            for ref in refs:
                if ref.object_key in found:
                    result.present += 1
                else:
                    await self._store(ref, (document_id,) if ref.segment else (), result)
        except errors.UnavailableError as error:
            # Without the node there is nothing to gain from computing the rest.
            result.failed += len(refs) - result.stored - result.present - result.failed
            result.failure_reason = str(error)
        self._counters.add("documents_prefetched")
        return result

    async def _store(self, ref: ChunkRef, documents: tuple[str, ...], result: PrefetchResult) -> None:
        coder = self._coder(ref)
        try:
            started = time.perf_counter()
            chunk = await self._thread.run_idle(self._compute, ref)
            seconds = time.perf_counter() - started
            data = await asyncio.to_thread(self._encoded, ref, chunk, documents, seconds, coder)
            stored = await self._put(ref, data, self._meta(ref, documents, seconds))
        except (errors.CapacityError, errors.DeadlineError) as error:
            result.failed += 1
            result.failure_reason = str(error)
            self._counters.add("puts_failed")
            return
        if stored:
            result.stored += 1
            result.stored_bytes += len(data)
            result.compute_seconds += seconds
        else:
            result.present += 1

    def _coder(self, ref: ChunkRef) -> JointCoder | None:
        """What a chunk is encoded with; asked before it is computed.

        Raises:
            UnavailableError: the profile is not at hand.
        """
        digest = ref.point.form.profile_digest
        try:
            return self._profile.coder(digest) if digest else None
        except errors.NotFoundError as error:
            raise errors.UnavailableError(str(error), reason=error.reason) from None

    async def _put(self, ref: ChunkRef, data: bytes, meta: ObjectMeta) -> bool:
        """Store an object, and before it the profile if the node has lost it, or never got it."""
        try:
            return await self._node.put(ref.object_key, data, meta, deadline=self._put_deadline)
        except errors.NotFoundError as error:
            if error.reason != "profile_missing":
                raise
        await self._profile.publish()
        return await self._node.put(ref.object_key, data, meta, deadline=self._put_deadline)

    def _compute(self, ref: ChunkRef) -> KVChunk:
        layers = self._engine.prefill(ref.token_ids, self._prefix(ref.context))
        # Lossless keys stay as they were computed: un-rotating would round them (bfloat16) before they are stored.
        return self._engine.to_chunk(
            ref.token_ids, layers, len(ref.context), unrotate=ref.point.level is not Level.LOSSLESS
        )

    def _prefix(self, context: TokenIds) -> Sequence[LayerTensors]:
        """KV of a context, kept for the next chunks after it; runs in the engine's thread."""
        if len(context) == 0:
            return ()
        key = context_digest(context)
        if key not in self._prefixes:
            while len(self._prefixes) >= _PREFIXES_KEPT:
                self._prefixes.pop(next(iter(self._prefixes)))
            self._prefixes[key] = self._engine.prefill(context)
        return self._prefixes[key]

    def _encoded(
        self, ref: ChunkRef, chunk: KVChunk, documents: tuple[str, ...], seconds: float, coder: JointCoder | None
    ) -> bytes:
        attributes = catalog.to_attributes(self._meta(ref, documents, seconds))
        identity = ChunkIdentity(self._fingerprint, ref.chunk_key, ref.kind, context_digest(ref.context), attributes)
        return container.encode(chunk, ref.point.form.level, identity, coder)

    def _meta(self, ref: ChunkRef, documents: tuple[str, ...], seconds: float) -> ObjectMeta:
        context = context_digest(ref.context)
        form = ref.point.form
        return ObjectMeta(
            self._fingerprint, documents, len(ref.token_ids), ref.kind, form, seconds, ref.chunk_key, context, context
        )

    def backfill(self, outcomes: Sequence[ChunkOutcome]) -> None:
        """Queue the chunks that a request missed; those that find the queue full are dropped and counted."""
        for outcome in outcomes:
            ref = outcome.ref
            if not outcome.miss_reason or ref.object_key in self._queued:
                continue
            try:
                self._queue.put_nowait(ref)
                self._queued.add(ref.object_key)
            except asyncio.QueueFull:
                self._counters.add("backfill_dropped")

    async def run_backfill(self) -> None:
        """Compute and store queued chunks, one at a time, while no request wants the engine; runs until cancelled."""
        while True:
            ref = await self._queue.get()
            try:
                result = PrefetchResult("", len(ref.token_ids))
                if not await self._node.stat([ref.object_key], deadline=self._stat_deadline):
                    await self._store(ref, (), result)
                self._counters.add("backfill_stored", result.stored)
            except errors.KvquiltError as error:
                self._counters.add("backfill_failed")
                log.warning("backfill of a chunk failed: %s", error)
            finally:
                self._queued.discard(ref.object_key)
                self._queue.task_done()

    async def settle(self) -> None:
        """Wait until every queued chunk has been dealt with."""
        await self._queue.join()
