"""What a request leaves behind: chunks that it missed and neighbours that it saw are stored, off its path.

Work waits in a bounded queue, runs one piece at a time in the engine's pauses or its share for that, and what does not
fit is dropped and counted.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace

import numpy as np

from kvquilt_codec import errors
from kvquilt_codec.identity import context_digest
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.blending import Blended
from kvquilt_router.computing import Computed, VariantJob, sources_of
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.forgetting import Forgetting
from kvquilt_router.needed import missed, preceding
from kvquilt_router.planning import Planner
from kvquilt_router.precompute import PrefetchResult
from kvquilt_router.tenants import Acting, Tenant
from kvquilt_router.types import ChunkOutcome, ChunkRef, Prompt
from kvquilt_rpc import requests, spans
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes import CacheNodes, ObjectRef
from kvquilt_rpc.requests import NO_REQUEST, Request

log = logging.getLogger(__name__)

MAX_EXACT_CONTEXT = 4096
"""Chunks of a prompt's first document are computed in their exact context up to so many tokens."""
BLENDS_KEPT = 2
"""Blends whose KV is kept until chunks of it are stored."""


@dataclass(frozen=True, slots=True, eq=False)
class _Work:
    """Something to store.

    Attributes:
        job: what.
        tenant: whose it is; the public one's if its key is public.
        blended: the blend that computed its KV already, in its exact context, where there is one.
        neighbour: whether it is stored because of what precedes the chunk in a prompt.
        begun: when its request began; see `Forgetting`.
        request: that left it behind.
    """

    job: VariantJob
    tenant: Tenant
    blended: Blended | None = None
    neighbour: bool = False
    begun: int = 0
    request: Request = NO_REQUEST

    @property
    def namespace(self) -> str:
        """Whose it is."""
        return self.tenant.planner.namespace.name


class Background:
    """Stores what requests leave behind, for one model and all namespaces.

    Args:
        forgetting: tells what was begun before its namespace was forgotten.
        queue_length: most pieces of work that wait.
        pair_bytes: most bytes of `pair` and `exact` variants that are stored because neighbours were seen.
        default_corpus: whose warm-up passages missed chunks are computed after.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        nodes: CacheNodes,
        counters: Counters,
        forgetting: Forgetting,
        *,
        stat_deadline: float,
        queue_length: int,
        pair_bytes: int,
        default_corpus: str = "",
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._nodes = nodes
        self._counters = counters
        self._forgetting = forgetting
        self._stat_deadline = stat_deadline
        self._pair_bytes = pair_bytes
        self._corpus = default_corpus
        self._queue: asyncio.Queue[_Work] = asyncio.Queue(queue_length)
        self._queued: dict[bytes, bytes] = {}
        self._kept: Counter[int] = Counter()

    def waiting(self) -> Set[bytes]:
        """Keys of the chunks that wait to be stored, or are being."""
        return frozenset(self._queued.values())

    def leave(self, blended: Blended, acting: Acting) -> int:
        """Queue what a finished blend missed, and the neighbours that it saw for the first time.

        Args:
            blended: see there.
            acting: whose blend it was, and where its caller may store.

        Returns:
            Tokens of the prompt, each once, in chunks that were queued now.
        """
        queued = {(ref.begin, ref.end) for ref in self._queue_all(blended, acting)}
        positions = np.zeros(len(blended.prompt.token_ids), bool)
        for begin, end in queued:
            positions[begin:end] = True
        return int(positions.sum())

    def _queue_all(self, blended: Blended, acting: Acting) -> list[ChunkRef]:
        """Queue, and tell the chunks for which there was room and something to do."""
        prompt, wanted = blended.prompt, []
        for outcome in blended.looked_up:
            ref = outcome.ref
            if ref.segment == 0 and outcome.found is None and acting.may_store(ref, prompt, 0):
                job = VariantJob(ref, VariantKind.EXACT, prompt.prefix[: ref.begin])
                wanted.append(_Work(job, acting.of(ref)))
        missed = self._missed(blended, acting)
        exact = self._exact(blended, missed, acting)
        wanted += exact
        at_hand = {(work.job.ref.begin, context_digest(work.job.context)) for work in exact}
        for job in self._planned(prompt, blended, missed, acting):
            if (job.ref.begin, context_digest(job.context)) not in at_hand:
                wanted.append(_Work(job, acting.of(job.ref)))
        if self._pair_bytes > 0:
            neighbours = self._neighbours(prompt, blended.report.chunks, acting)
            wanted += [_Work(job, acting.of(job.ref), neighbour=True) for job in neighbours]
        return [work.job.ref for work in wanted if self._put(work, acting)]

    def _missed(self, blended: Blended, acting: Acting) -> list[ChunkRef]:
        """The chunks that would be found if they were stored, and may be."""
        refs = missed(blended, acting.tenant.planner)
        return [ref for ref in refs if acting.may_store(ref, blended.prompt, 0)]

    def _exact(self, blended: Blended, missed: Sequence[ChunkRef], acting: Acting) -> list[_Work]:
        """Chunks that this request computed after nothing but exact ones: their KV is at hand.

        Those that are stored in another context already, which the gate keeps out, count as neighbours.
        """
        exact_end = 0
        for outcome in blended.report.chunks:
            if outcome.ref.begin != exact_end or (outcome.found is not None and outcome.found.context != "exact"):
                break
            exact_end = min(outcome.ref.end, blended.assembly.kv.tokens)
        prompt = blended.prompt
        computed = [(ref, False) for ref in missed]
        if self._pair_bytes > 0:
            closed = (outcome.ref for outcome in blended.looked_up if outcome.miss_reason == "gate_closed")
            computed += [(ref, True) for ref in closed if ref.segment]
        found = []
        for ref, neighbour in computed:
            if ref.end <= exact_end and acting.may_store(ref, prompt, ref.segment):
                sources = preceding(prompt.token_ids, len(prompt.prefix), ref, blended.report.chunks)
                job = VariantJob(ref, VariantKind.EXACT, prompt.prefix, sources)
                found.append(_Work(job, acting.of(ref), blended, neighbour))
        if found and len(self._kept) >= BLENDS_KEPT:
            self._counters.add("background_dropped", len(found))
            return []
        return found

    def _planned(
        self, prompt: Prompt, blended: Blended, missed: Sequence[ChunkRef], acting: Acting
    ) -> list[VariantJob]:
        """Every missed chunk, as a prefetch of its document would compute it."""
        wanted = {ref.begin for ref in missed}
        jobs: list[VariantJob] = []
        for segment in sorted({ref.segment for ref in missed}):
            looked_up = [outcome.ref for outcome in blended.looked_up if outcome.ref.segment == segment]
            own = [ref for ref in missed if ref.segment == segment] if prompt.plain else looked_up
            tenant = acting.of(own[0])
            planned = tenant.precomputer.jobs(prompt.prefix, own, tenant.warm_ups.of(self._corpus))
            jobs += [job for job in planned if job.ref.begin in wanted]
        return jobs

    def _taken(self, blended: Blended, job: VariantJob, planner: Planner) -> Computed:
        """A chunk's KV out of a finished blend; runs in the engine's thread."""
        ref = job.ref
        cut = slice(ref.begin, ref.end)
        layers = [LayerTensors(kv.keys[:, :, cut], kv.values[:, :, cut]) for kv in blended.assembly.kv.layers]
        lossless = ref.point.form.level is Level.LOSSLESS
        kv = self._engine.to_chunk(ref.token_ids, layers, ref.begin, unrotate=not lossless)
        return Computed(kv, None, sources_of(job, planner), 0.0)

    def _neighbours(self, prompt: Prompt, outcomes: Sequence[ChunkOutcome], acting: Acting) -> list[VariantJob]:
        """Found chunks that would be nearer to this prompt if they were computed after what precedes them here."""
        jobs = []
        for before, outcome in itertools.pairwise(outcomes):
            ref, found = outcome.ref, outcome.found
            if found is None or found.context in ("exact", "pair") or before.ref.end != ref.begin:
                continue
            if len(ref.token_ids) != found.info.meta.tokens:
                continue  # a part of a chunk would be looked for only where the text is cut in the same way
            if not acting.may_store(ref, prompt, ref.segment):
                continue
            if ref.segment == 1 and ref.begin <= MAX_EXACT_CONTEXT:
                sources = preceding(prompt.token_ids, len(prompt.prefix), ref, outcomes)
                jobs.append(VariantJob(ref, VariantKind.EXACT, prompt.prefix, sources))
            elif before.ref.segment:
                sources = (before.ref.token_ids,)
                jobs.append(VariantJob(ref, VariantKind.PAIR, prompt.prefix, sources, after_public=before.ref.public))
        return jobs

    def _put(self, work: _Work, acting: Acting) -> bool:
        work = replace(work, begun=acting.begun, request=requests.current())
        if self._forgetting.is_over(work.namespace, work.begun):
            return False
        key = work.tenant.storer.key(work.job)
        if key in self._queued:
            return False
        try:
            self._queue.put_nowait(work)
        except asyncio.QueueFull:
            self._counters.add("background_dropped")
            work.tenant.storer.dropped(work.job)
            return False
        self._queued[key] = work.job.ref.chunk_key
        if work.blended is not None:
            self._kept[id(work.blended)] += 1
        return True

    async def run(self) -> None:
        """Do what is queued, one piece at a time, in the engine's pauses or its share; runs until cancelled."""
        while True:
            work = await self._queue.get()
            try:
                self._forgetting.resume(work.begun)
                requests.resume(work.request)
                with acting_in(work.namespace), spans.span("kvquilt.background", request_id=work.request.request_id):
                    await self._do(work)
            except errors.KvquiltError as error:
                if self._forgetting.is_over(work.namespace, work.begun):
                    self._counters.add("background_dropped")
                    continue
                self._counters.add("background_failed")
                log.warning("a chunk could not be stored in the background: %s", error)
            except Exception:
                # The next one must still be stored: nobody waits for this task, and its end would not be seen.
                self._counters.add("background_failed")
                log.exception("a chunk could not be stored in the background")
            finally:
                self._queued.pop(work.tenant.storer.key(work.job), None)
                self._let_go(work)
                self._queue.task_done()

    def forget(self, namespace: str) -> None:
        """Drop what waits of a namespace."""
        for work in [self._queue.get_nowait() for _ in range(self._queue.qsize())]:
            if work.namespace == namespace:
                del self._queued[work.tenant.storer.key(work.job)]
                self._let_go(work)
                self._counters.add("background_dropped")
            else:
                self._queue.put_nowait(work)
            self._queue.task_done()

    def _let_go(self, work: _Work) -> None:
        if work.blended is not None:
            self._kept[id(work.blended)] -= 1
            self._kept += Counter()  # drops what is at 0

    async def _do(self, work: _Work) -> None:
        job = work.job
        if work.neighbour and self._pair_bytes <= 0:
            self._counters.add("background_dropped")
            return
        tenant = work.tenant
        here = ObjectRef(tenant.storer.key(job), job.ref.chunk_key)
        if await self._nodes.stat([here], deadline=self._stat_deadline):
            return
        result = PrefetchResult("", len(job.ref.token_ids))
        if work.blended is not None:
            computed = await self._thread.run_idle(self._taken, work.blended, job, tenant.planner)
            seconds = len(job.ref.token_ids) * work.blended.seconds_per_token
            stored, size = await tenant.storer.store(job, computed, seconds)
            result.stored, result.stored_bytes = int(stored), size
        else:
            await tenant.precomputer.run(job, result)
        if work.neighbour:
            self._pair_bytes -= result.stored_bytes
        self._counters.add("background_stored", result.stored)

    async def settle(self) -> None:
        """Wait until everything queued has been dealt with."""
        await self._queue.join()
