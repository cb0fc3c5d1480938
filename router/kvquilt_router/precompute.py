"""Precomputes documents on request: each chunk after the warm-up passages of its corpus and what precedes it."""

import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field

from kvquilt_codec import errors
from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.identity import context_digest
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.lifetime import Ttl
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.computing import Computed, VariantComputer, VariantJob
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.lookup import VARIANTS_PER_CHUNK
from kvquilt_router.packs import packs
from kvquilt_router.planning import Planner
from kvquilt_router.storing import Storer
from kvquilt_router.types import ChunkRef
from kvquilt_router.warming import without
from kvquilt_rpc import spans
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes import CacheNodes, ObjectRef

DOCUMENT_CONTEXT_TOKENS = 2048
"""A chunk is computed after at most so many tokens of its document's earlier chunks."""
AHEAD = 16
"""Documents that are planned together, so that their short chunks share forward passes."""


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
    """Computes chunks after their context and puts them to cache nodes."""

    def __init__(
        self,
        computer: VariantComputer,
        thread: EngineThread,
        planner: Planner,
        storer: Storer,
        nodes: CacheNodes,
        counters: Counters,
        *,
        stat_deadline: float,
    ) -> None:
        self._computer = computer
        self._thread = thread
        self._planner = planner
        self._storer = storer
        self._nodes = nodes
        self._counters = counters
        self._stat_deadline = stat_deadline

    async def documents(
        self,
        documents: Sequence[tuple[str, TokenIds]],
        prefix: TokenIds,
        point: OperatingPoint,
        warm_up: Sequence[TokenIds] = (),
        *,
        public_prefix: bool = False,
        store_prefix: bool = True,
        ttl: Ttl | None = None,
    ) -> AsyncGenerator[PrefetchResult, None]:
        """Store every chunk of documents (and the shared prefix) that is not stored yet; yields as each is done.

        A chunk that cannot be stored is counted in the result; the others go on. Short chunks of neighbouring
        documents are computed together.

        Args:
            documents: ids and tokens.
            prefix: shared by the prompts that they will be in.
            point: the level to store at.
            warm_up: passages that chunks are computed after.
            public_prefix: the prefix is kept in the public namespace.
            store_prefix: the prefix may be stored; else only the documents are.
            ttl: time to live of the documents' chunks; of the prefix it is the default.

        Raises:
            BadRequestError: no tokens, or more than the model's context after the prefix.
        """
        for begin in range(0, len(documents), AHEAD):
            planned = []
            for document_id, tokens in documents[begin : begin + AHEAD]:
                own = self.jobs(prefix, list(self._planner.document(tokens, point)), warm_up, (document_id,), ttl)
                jobs = [*(self.prefix_jobs(prefix, public_prefix) if store_prefix else ()), *own]
                for job in jobs:
                    self._computer.check(job)
                planned.append((PrefetchResult(document_id, len(tokens)), jobs))
            missing = [await self._missing(jobs, prefix, result) for result, jobs in planned]
            pending = _Pending(packs(job for jobs in missing for job in jobs))
            for (result, _), jobs in zip(planned, missing, strict=True):
                await self._store(result, jobs, pending)
                self._counters.add("documents_prefetched")
                yield result

    @spans.traced("kvquilt.document")
    async def _store(self, result: PrefetchResult, jobs: Sequence[VariantJob], pending: "_Pending") -> None:
        before = (result.present, result.failed)
        try:
            for job in jobs:
                key = self._storer.key(job)
                if key in pending.stored:  # another document of these holds the same text
                    await self._nodes.touch(
                        [ObjectRef(key, job.ref.chunk_key)], job.documents, deadline=self._stat_deadline
                    )
                    result.present += 1
                else:
                    await self.run(job, result, pending)
                    pending.stored.add(key)
        except (errors.UnavailableError, errors.DeadlineError) as error:
            # Without the node there is nothing to gain from computing the rest.
            done = result.stored + result.present + result.failed - sum(before)
            result.failed += len(jobs) - done
            result.failure_reason = str(error)
        spans.note(tokens=result.tokens, stored=result.stored, present=result.present, failed=result.failed)

    def prefix_jobs(self, prefix: TokenIds, public: bool = False) -> list[VariantJob]:
        """The chunks of a shared prefix, each after those before it."""
        refs = self._planner.prefix(prefix, public)
        return [VariantJob(ref, VariantKind.EXACT, prefix[: ref.begin]) for ref in refs]

    def jobs(
        self,
        prefix: TokenIds,
        refs: Sequence[ChunkRef],
        warm_up: Sequence[TokenIds],
        documents: tuple[str, ...] = (),
        ttl: Ttl | None = None,
    ) -> list[VariantJob]:
        """The chunks of one document, each after warm-up passages and those before it, as far as there is room."""
        jobs: list[VariantJob] = []
        earlier: list[TokenIds] = []
        for ref in refs:
            if sum(map(len, earlier)) + len(ref.token_ids) > DOCUMENT_CONTEXT_TOKENS:
                earlier.clear()
            wanted = [*without(warm_up, refs[0].token_ids), *earlier]
            sources = self._computer.fitting(prefix, wanted, ref.token_ids)
            kind = VariantKind.PAIR if earlier and sources else VariantKind.WARM if sources else VariantKind.BASE
            jobs.append(VariantJob(ref, kind, prefix, sources, documents, ttl=ttl))
            earlier.append(ref.token_ids)
        return jobs

    async def _missing(self, jobs: Sequence[VariantJob], prefix: TokenIds, result: PrefetchResult) -> list[VariantJob]:
        """The jobs whose chunk is not stored in the form, in a variant at least as good; the others are touched."""
        try:
            return await self._looked_up(jobs, prefix, result)
        except (errors.UnavailableError, errors.DeadlineError, errors.IntegrityError) as error:
            result.failed, result.failure_reason = len(jobs), str(error)
            return []

    @spans.traced("kvquilt.find")
    async def _looked_up(
        self, jobs: Sequence[VariantJob], prefix: TokenIds, result: PrefetchResult
    ) -> list[VariantJob]:
        shared = {ObjectRef(self._storer.key(job), job.ref.chunk_key) for job in jobs if job.ref.segment == 0}
        found = set(await self._nodes.stat(list(shared), deadline=self._stat_deadline))
        own = [job for job in jobs if job.ref.segment]
        stored = await self._nodes.find_variants(
            [job.ref.chunk_key for job in own],
            self._planner.fingerprint,
            context_digest(prefix),
            deadline=self._stat_deadline,
            limit=VARIANTS_PER_CHUNK,
        )
        held = {job.ref.chunk_key: _serving(stored.objects.get(job.ref.chunk_key, ()), job) for job in own}
        refs = list(dict.fromkeys(ObjectRef.of(info) for infos in held.values() for info in infos))
        touched = await self._nodes.touch(refs, [result.document_id], deadline=self._stat_deadline)
        missing = []
        for job in jobs:
            here = self._storer.key(job) in found
            if here or any(info.key in touched for info in held.get(job.ref.chunk_key, ()) if job.ref.segment):
                result.present += 1
            else:
                missing.append(job)
        return missing

    async def run(self, job: VariantJob, result: PrefetchResult, pending: "_Pending | None" = None) -> None:
        """Compute and store, in the engine's pauses or its share for that.

        Args:
            job: what to compute.
            result: counts it.
            pending: jobs that may be computed together with this one.

        Raises:
            KvquiltError: another failure than a full store or a deadline, which are counted in the result.
        """
        self._storer.coder(job)
        try:
            computed, seconds = await self._computed(job, pending)
            stored, size = await self._storer.store(job, computed, seconds)
        except (errors.CapacityError, errors.DeadlineError) as error:
            result.failed += 1
            result.failure_reason = str(error)
            self._counters.add("puts_failed")
            return
        if stored:
            result.stored += 1
            result.stored_bytes += size
            result.compute_seconds += seconds
        else:
            result.present += 1

    async def _computed(self, job: VariantJob, pending: "_Pending | None") -> tuple[Computed, float]:
        """A job's KV, and the seconds that computing it took: its share of them, where others were computed with it."""
        if pending is not None and id(job) in pending.ready:
            return pending.ready.pop(id(job))
        together = (job,) if pending is None else pending.shared.get(id(job), (job,))
        started = time.perf_counter()
        with spans.span("kvquilt.compute", tokens=sum(len(other.ref.token_ids) for other in together)):
            computed = await self._thread.run_idle(self._computer.compute_packed, together)
        seconds = (time.perf_counter() - started) / len(together)
        found = {id(other): (kv, seconds) for other, kv in zip(together, computed, strict=True)}
        if pending is not None:
            pending.ready |= found
        return found[id(job)] if pending is None else pending.ready.pop(id(job))


@dataclass(slots=True)
class _Pending:
    """Work on some documents.

    Attributes:
        shared: by `id` of a job those that share its pass.
        ready: what is computed and waits to be stored, by `id` of its job.
        stored: keys of the objects that are dealt with.
    """

    shared: dict[int, tuple[VariantJob, ...]]
    ready: dict[int, tuple[Computed, float]] = field(default_factory=dict)
    stored: set[bytes] = field(default_factory=set)


def _serving(infos: Sequence[ObjectInfo], job: VariantJob) -> list[ObjectInfo]:
    """The stored variants that make a job needless: of its form and length, made to be used in other contexts too, and
    after other text if the job's is.

    KV that a request or a worker left, exact in the context that it happened to be in, serves that context alone.
    """
    own = context_digest(job.context)
    return [
        info
        for info in infos
        if info.meta.form == job.ref.point.form
        and info.meta.tokens == len(job.ref.token_ids)
        and (info.meta.context_digest == own or info.meta.variant is not VariantKind.EXACT)
        and (info.meta.sources or not job.sources)
    ]
