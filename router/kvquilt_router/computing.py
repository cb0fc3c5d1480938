"""Computes variants of chunks: the KV of a chunk after a context, and how far it depends on that context."""

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvquilt_codec.catalog import MAX_SOURCES, ContextSource
from kvquilt_codec.identity import context_digest
from kvquilt_codec.lifetime import Ttl
from kvquilt_codec.types import KVChunk, Level, SideInfo, TokenIds, VariantKind
from kvquilt_router.dependence import dependence
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.prefill import AttentionSums
from kvquilt_router.planning import Planner
from kvquilt_router.types import ChunkRef
from kvquilt_rpc.pace import Pace

CONTEXT_BYTES = 1 << 30


class ContextCache:
    """KV of contexts that chunks were computed after, by namespace: whether another tenant was there shall not show.

    Kept by the engine's thread, forgotten by the event loop.

    Args:
        capacity_bytes: most memory of all together, the latest one apart.
    """

    def __init__(self, capacity_bytes: int = CONTEXT_BYTES) -> None:
        self._capacity = capacity_bytes
        self._kept: OrderedDict[tuple[str, bytes], list[LayerTensors]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, namespace: str, digest: bytes) -> list[LayerTensors] | None:
        """What is kept of a context; a use of it."""
        with self._lock:
            layers = self._kept.get((namespace, digest))
            if layers is not None:
                self._kept.move_to_end((namespace, digest))
            return layers

    def keep(self, namespace: str, digest: bytes, layers: list[LayerTensors]) -> None:
        """Keep a context; the least recently used ones make room."""
        with self._lock:
            self._kept[namespace, digest] = layers
            self._kept.move_to_end((namespace, digest))
            while len(self._kept) > 1 and sum(map(_nbytes, self._kept.values())) > self._capacity:
                self._kept.popitem(last=False)

    def forget(self, namespace: str) -> None:
        """Drop what is kept of a namespace."""
        with self._lock:
            for key in [key for key in self._kept if key[0] == namespace]:
                del self._kept[key]


@dataclass(frozen=True, slots=True, eq=False)
class VariantJob:
    """A variant that is to be computed and stored.

    Attributes:
        ref: the chunk.
        kind: what the variant is called.
        prefix: the shared prefix; for a chunk of the shared prefix itself the part before it.
        sources: what precedes the chunk beyond that, in order.
        documents: that the chunk belongs to.
        after_public: its sources are public; those of a public chunk always are.
        ttl: time to live of what is stored; `None`: the router's default.
    """

    ref: ChunkRef
    kind: VariantKind
    prefix: TokenIds
    sources: tuple[TokenIds, ...] = ()
    documents: tuple[str, ...] = ()
    after_public: bool = False
    ttl: Ttl | None = None

    @property
    def context(self) -> TokenIds:
        """All tokens before the chunk."""
        return np.concatenate([self.prefix, *self.sources]).astype(np.uint32)


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """A variant's KV, and what is kept of its computation."""

    kv: KVChunk
    side: SideInfo | None
    sources: tuple[ContextSource, ...]
    intra: float


class VariantComputer:
    """Computes variants of one model's chunks; runs in the engine's thread.

    Args:
        attention_sums: keep what a chunk's tokens attended to (policy `contextual` chooses by it), for a second
            computation of that attention.
        contexts: keeps KV of contexts for the next chunks after them.
        prefill: told how fast chunks are computed.
    """

    def __init__(
        self,
        engine: Engine,
        planner: Planner,
        *,
        attention_sums: bool = False,
        contexts: ContextCache | None = None,
        prefill: Pace | None = None,
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._attention_sums = attention_sums
        self._contexts = ContextCache() if contexts is None else contexts
        self._pace = Pace() if prefill is None else prefill

    def fitting(self, prefix: TokenIds, sources: Sequence[TokenIds], chunk: TokenIds) -> tuple[TokenIds, ...]:
        """The last of the sources that the model's context has room for, with prefix and chunk."""
        room = self._engine.traits.max_context - len(prefix) - len(chunk)
        kept: list[TokenIds] = []
        for source in reversed(sources):
            room -= len(source)
            if room < 0:
                break
            kept.append(source)
        return tuple(reversed(kept))

    def check(self, job: VariantJob) -> None:
        """Refuse what the model cannot take.

        Raises:
            BadRequestError: a token beyond the vocabulary, or more tokens than the model's context.
        """
        self._engine.check(job.ref.token_ids, len(job.context) + len(job.ref.token_ids))

    def compute(self, job: VariantJob) -> Computed:
        """Compute a variant.

        Raises:
            BadRequestError: see `check`.
        """
        self.check(job)
        parts = _parts(job)
        layers, sums = self._prefill(job, self._context(parts))
        if job.sources:
            self._keep([*parts, job.ref.token_ids], _joined(self._context(parts), layers))
        base = None
        if job.sources and job.kind is not VariantKind.EXACT:
            base = self._engine.prefill(job.ref.token_ids, self._context(_parts(job)[: min(1, len(job.prefix))]))
        return self._computed(job, layers, base, sums)

    def compute_packed(self, jobs: Sequence[VariantJob]) -> list[Computed]:
        """Compute short variants with the same context in one forward pass, and one more for their dependence on it.

        Raises:
            BadRequestError: see `check`.
        """
        for job in jobs:
            self.check(job)
        if len(jobs) == 1 or self._attention_sums:
            return [self.compute(job) for job in jobs]
        first = jobs[0]
        chunks = [job.ref.token_ids for job in jobs]
        context = self._context(_parts(first))
        started = time.perf_counter()
        variants = self._engine.prefill_packed(chunks, context)
        self._measured(started, sum(map(len, chunks)))
        bases: Sequence[list[LayerTensors] | None] = [None] * len(jobs)
        if first.sources:
            bases = self._engine.prefill_packed(chunks, self._context(_parts(first)[: min(1, len(first.prefix))]))
        return [self._computed(*found, None) for found in zip(jobs, variants, bases, strict=True)]

    def _computed(
        self,
        job: VariantJob,
        layers: Sequence[LayerTensors],
        base: Sequence[LayerTensors] | None,
        sums: AttentionSums | None,
    ) -> Computed:
        # Lossless keys stay as they were computed: un-rotating would round them (bfloat16) before they are stored.
        lossless = job.ref.point.form.level is Level.LOSSLESS
        token_ids = job.ref.token_ids
        chunk = self._engine.to_chunk(token_ids, layers, len(job.context), unrotate=not lossless)
        depends = None
        if base is not None:
            plain = self._engine.to_chunk(token_ids, base, len(job.prefix), unrotate=False)
            depends = dependence(chunk.values, plain.values)
        if sums is None:
            side = None if depends is None else SideInfo(depends)
            return Computed(chunk, side, sources_of(job, self._planner), 0.0)
        inter = sums.inter.sum(axis=1, dtype=np.float64).tolist()
        side = SideInfo(depends, sums.inter.sum(axis=0).clip(0, 1))
        return Computed(chunk, side, sources_of(job, self._planner, inter), float(sums.intra.sum(dtype=np.float64)))

    def _prefill(
        self, job: VariantJob, context: Sequence[LayerTensors]
    ) -> tuple[list[LayerTensors], AttentionSums | None]:
        if not (self._attention_sums and job.sources):
            started = time.perf_counter()
            layers = self._engine.prefill(job.ref.token_ids, context)
            self._measured(started, len(job.ref.token_ids))
            return layers, None
        ends = np.cumsum([len(job.prefix), *map(len, job.sources)]).tolist()
        return self._engine.prefill_observed(job.ref.token_ids, context, list(itertools.pairwise(ends)))

    def _measured(self, started: float, tokens: int) -> None:
        self._pace.measured(time.perf_counter() - started, tokens, len(self._engine.traits.layout.layers))

    def _context(self, parts: Sequence[TokenIds]) -> list[LayerTensors]:
        """KV of the parts, one after the other, from as much of them as is at hand."""
        if not parts:
            return []
        kept = self._contexts.get(self._planner.namespace.name, _key(parts))
        if kept is not None:
            return kept
        before = self._context(parts[:-1])
        layers = _joined(before, self._engine.prefill(parts[-1], before))
        self._keep(parts, layers)
        return layers

    def _keep(self, parts: Sequence[TokenIds], layers: list[LayerTensors]) -> None:
        self._contexts.keep(self._planner.namespace.name, _key(parts), layers)


def _parts(job: VariantJob) -> list[TokenIds]:
    return [part for part in (job.prefix, *job.sources) if len(part)]


def sources_of(job: VariantJob, planner: Planner, inter: Sequence[float] = ()) -> tuple[ContextSource, ...]:
    """What precedes a job's chunk beyond the shared prefix, by key; the last of it, if it is too many pieces.

    Args:
        job: see there.
        planner: names the sources.
        inter: attention that the chunk gave to each; none if that was not measured.
    """
    measured = inter or [0.0] * len(job.sources)
    public = job.after_public or job.ref.public
    return tuple(
        ContextSource(planner.chunk(source, job.ref.point, 1, 0, public).chunk_key, len(source), attention)
        for source, attention in list(zip(job.sources, measured, strict=True))[-MAX_SOURCES:]
    )


def _key(parts: Sequence[TokenIds]) -> bytes:
    return context_digest(np.concatenate(parts).astype(np.uint32))


def _joined(before: Sequence[LayerTensors], after: Sequence[LayerTensors]) -> list[LayerTensors]:
    if not before:
        return list(after)
    return [
        LayerTensors(torch.cat([a.keys, b.keys], 2), torch.cat([a.values, b.values], 2))
        for a, b in zip(before, after, strict=True)
    ]


def _nbytes(layers: Sequence[LayerTensors]) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)
