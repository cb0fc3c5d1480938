"""Takes KV that a worker computed, and stores it as chunks in their exact context.

Hardly in a request's way: one chunk at a time in the engine's pauses or its small share of it, within a bound of
memory; what does not fit is refused and counted.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import numpy as np

from kvquilt_codec import errors
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.types import Array, KVLayout, Level, Part, TokenIds, VariantKind, check_finite
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.computing import Computed, VariantJob, sources_of
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, heads_first
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.estimates import UNMEASURED_SECONDS_PER_TOKEN, Estimates
from kvquilt_router.lattice import Piece, partition
from kvquilt_router.offered import OfferedKv
from kvquilt_router.planning import Planner
from kvquilt_router.tenants import Acting
from kvquilt_rpc import frames
from kvquilt_rpc.admission import Room
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Taken:
    """What became of the chunks: how many were stored now, were there before, or could not be stored.

    Attributes:
        tokens: in chunks that are stored now, each once.
    """

    stored: int = 0
    present: int = 0
    failed: int = 0
    failure_reason: str = ""
    tokens: int = 0
    stored_bytes: int = 0


class Taker:
    """Takes KV of one model.

    Args:
        capacity_bytes: most KV of all streams together.
        deadline: seconds in which a stream's KV must have come.
    """

    def __init__(
        self,
        engine: Engine,
        thread: EngineThread,
        estimates: Estimates,
        counters: Counters,
        *,
        capacity_bytes: int,
        deadline: float,
    ) -> None:
        self._engine = engine
        self._thread = thread
        self._estimates = estimates
        self._counters = counters
        self._room = Room(capacity_bytes, "KV", counters, "saves_dropped", "saves_busy")
        self._deadline = deadline
        self._turn = asyncio.Lock()

    @property
    def held_bytes(self) -> int:
        """KV that is being taken, or waits for it."""
        return self._room.held

    async def take(
        self, offered: OfferedKv, parts: AsyncIterator[pb.StoreKvRequest], acting: Acting, point: OperatingPoint
    ) -> Taken:
        """Take the rest of a stream, and store what is not stored.

        Raises:
            CapacityError: more KV at once than there is room for.
            BadRequestError: NaN or Inf, or other messages than frames.
            IntegrityError: frames that do not add up.
            DeadlineError: they do not come.
            UnavailableError: the codec's profile is not at hand.
        """
        self._counters.add("saves")
        finder = acting.tenant.heads
        prompt, begin, end = offered.prompt, offered.begin, offered.end
        head = await finder.find(prompt, point, begin, end)
        taken = Taken(present=len(head.chunks), tokens=head.end - max(begin, head.begin) if head.chunks else 0)
        known = finder.pieces(prompt)
        pieces = partition(known, head.end, end)
        self._counters.add("chunks_saved_before", taken.present)
        if not pieces:
            return taken
        size = self._engine.traits.layout.nbytes(end - begin)
        with self._room.taken(size):
            tensors = await self._received(parts, size, end - begin)
            for number, piece in enumerate(pieces):
                job = self._job(offered, known, piece, acting, point)
                if job is None:
                    taken.failed += 1
                    taken.failure_reason = "public_write_denied"
                elif not await self._stored(job, tensors, begin, offered, acting, taken):
                    taken.failed += len(pieces) - number
                    break
        self._counters.add("chunks_saved", taken.stored)
        self._counters.add("chunks_unsaved", taken.failed)
        return taken

    async def _received(self, parts: AsyncIterator[pb.StoreKvRequest], size: int, tokens: int) -> list[LayerTensors]:
        try:
            async with asyncio.timeout(self._deadline):
                payload = await frames.uploaded_payload(parts, size, size)
        except TimeoutError:
            raise errors.DeadlineError(f"expected {size} bytes of KV within {self._deadline:g} s; got less") from None
        return await asyncio.to_thread(_tensors, payload, self._engine.traits.layout, tokens)

    def _job(
        self, offered: OfferedKv, known: list[Piece], piece: Piece, acting: Acting, point: OperatingPoint
    ) -> VariantJob | None:
        """What is stored of a piece; `None`: the caller may not store it."""
        prompt, prefix = offered.prompt, offered.prompt.prefix
        ref = acting.tenant.heads.ref(prompt, piece, point)
        if not acting.may_store(ref, prompt, ref.segment):
            return None
        if ref.segment == 0:
            return VariantJob(ref, VariantKind.EXACT, prefix[: ref.begin], documents=offered.documents, ttl=offered.ttl)
        sources = _split(prompt.token_ids, known, len(prefix), ref.begin)
        return VariantJob(ref, VariantKind.EXACT, prefix, sources, offered.documents, ttl=offered.ttl)

    async def _stored(
        self,
        job: VariantJob,
        tensors: Sequence[LayerTensors],
        begin: int,
        offered: OfferedKv,
        acting: Acting,
        taken: Taken,
    ) -> bool:
        """Store a chunk, when it is the turn of storing; whether it is worth trying the next one."""
        tenant = acting.of(job.ref)
        tokens = len(job.ref.token_ids)
        each = offered.seconds_per_token or self._estimates.seconds_per_token or UNMEASURED_SECONDS_PER_TOKEN
        try:
            async with self._turn:
                tenant.storer.coder(job)
                computed = await self._thread.run_idle(self._cut, job, tensors, begin, tenant.planner)
                with acting_in(tenant.planner.namespace.name):
                    stored, size = await tenant.storer.store(job, computed, tokens * each)
        except errors.UnavailableError as error:
            taken.failure_reason = error.reason
            return False
        except errors.KvquiltError as error:
            log.warning("KV of a worker was not stored: %s", error)
            taken.failed += 1
            taken.failure_reason = error.reason
            return True
        taken.tokens += tokens
        if stored:
            taken.stored += 1
            taken.stored_bytes += size
        else:
            taken.present += 1
        return True

    def _cut(self, job: VariantJob, tensors: Sequence[LayerTensors], begin: int, planner: Planner) -> Computed:
        """A chunk out of what came; runs in the engine's thread."""
        ref = job.ref
        cut = slice(ref.begin - begin, ref.end - begin)
        layers = [LayerTensors(layer.keys[:, :, cut], layer.values[:, :, cut]) for layer in tensors]
        lossless = ref.point.form.level is Level.LOSSLESS
        kv = self._engine.to_chunk(ref.token_ids, layers, ref.begin, unrotate=not lossless)
        return Computed(kv, None, sources_of(job, planner), 0.0)


def _tensors(payload: bytes, layout: KVLayout, tokens: int) -> list[LayerTensors]:
    """What came, layer by layer.

    Raises:
        BadRequestError: it holds NaN or Inf.
    """
    words = np.frombuffer(bytearray(payload), layout.data_type.numpy)
    layers = []
    position = 0
    for index, shape in enumerate(layout.layers):
        arrays: list[Array] = []
        for part in (Part.KEYS, Part.VALUES):
            _, heads, dim = shape.of(part, tokens)
            size = heads * tokens * dim
            arrays.append(words[position : position + size].reshape(heads, tokens, dim))
            check_finite(arrays[-1], layout.data_type, f"{part.name.lower()} of layer {index}")
            position += size
        layers.append(LayerTensors(*(heads_first(array, layout.data_type) for array in arrays)))
    return layers


def _split(tokens: TokenIds, known: list[Piece], begin: int, end: int) -> tuple[TokenIds, ...]:
    """What is between two places, piece by piece."""
    bounds = [piece.end for piece in partition(known, begin, end) if piece.end < end]
    return tuple(part for part in np.split(tokens[begin:end], [bound - begin for bound in bounds]) if len(part))
