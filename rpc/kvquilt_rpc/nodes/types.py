"""The vocabulary of several nodes: what a router calls, and what it is told of them. Read this file first."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from kvquilt_codec.catalog import ChunkMatch, ObjectInfo, ObjectMeta
from kvquilt_codec.container import Description, HeldContainer
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.receipts import ForgetReceipt, PinReceipt
from kvquilt_codec.traces import ChunkPlace, Trace
from kvquilt_proto.v1 import cache_node_pb2
from kvquilt_rpc.node_batches import Piece
from kvquilt_rpc.node_objects import ListedPage
from kvquilt_rpc.nodes.batch_types import ObjectBatch
from kvquilt_rpc.nodes.file_types import StoredAudits, StoredGates, StoredProfiles
from kvquilt_rpc.nodes.refs import ObjectRef

NO_NODES = "no_nodes"
"""Reason of calls while there is no member: a name without addresses, or an empty list."""

COUNTERS = (
    "nodes_changed",
    "node_calls_spared",
    "node_retries",
    "node_retries_refused",
    "node_hedges",
    "node_hedges_won",
    "node_breakers_opened",
    "node_spread_reads",
)
"""Counters of a pool; docs/reference.md says what each means."""


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """How a pool of nodes behaves. What has a setting is documented there.

    Attributes:
        shared_store: all nodes have the same stores, so that any of them serves any chunk.
        resolve_seconds: between two look-ups of a DNS name, and the most that one may take.
        health_seconds: between two probes of a node, and the most that one may take.
        hot_uses: uses within `hot_seconds` that make a chunk hot; 0: never.
        hot_seconds: see there.
        hot_replicas: nodes that a hot chunk is read from.
        load_factor: times its share of the running reads that a node takes before the next one is asked.
        attempts: most nodes that one call tries, or times that it tries the only one.
        retry_ratio: further attempts, as a share of calls.
        hedge_ratio: second requests beside a late one, as a share of calls.
        reserve: attempts of either kind beyond that share.
        first_backoff: bound of the wait before the same node is tried again, in seconds; it doubles.
        last_backoff: most of it.
        breaker_threshold: failures in a row after which a node is left alone.
        breaker_wait: for so long at first, in seconds; it doubles while the node does not answer.
        breaker_last_wait: most of it.
        asked_for_text: most nodes that one search by fingerprints asks.
        throttle_factor: calls of a kind that a node is sent for each that it takes, above 1; see `Throttle`.
        throttle_seconds: over which that is counted, and after which it is forgotten.
    """

    shared_store: bool = False
    resolve_seconds: float = 5.0
    health_seconds: float = 2.0
    hot_uses: int = 8
    hot_seconds: float = 10.0
    hot_replicas: int = 2
    load_factor: float = 1.25
    attempts: int = 3
    retry_ratio: float = 0.2
    hedge_ratio: float = 0.1
    reserve: float = 10.0
    first_backoff: float = 0.05
    last_backoff: float = 0.5
    breaker_threshold: int = 5
    breaker_wait: float = 0.5
    breaker_last_wait: float = 10.0
    asked_for_text: int = 32
    throttle_factor: float = 1.25
    throttle_seconds: float = 2.0


@dataclass(frozen=True, slots=True)
class VariantsFound:
    """What a look-up by text found.

    Attributes:
        objects: by chunk key, the most recently used first; each names the node that has it. Keys without any are left
            out.
        failed: chunk keys that were not found, and of which it is not known whether they are stored: the node that
            should have them did not answer. With what it did instead.
    """

    objects: dict[bytes, list[ObjectInfo]]
    failed: dict[bytes, KvquiltError]


@dataclass(frozen=True, slots=True)
class NodeState:
    """A member as this process sees it.

    Attributes:
        target: its address.
        serving: what its health service said last; true before it was asked.
        breaker: "closed", "open" or "half_open".
        outstanding: calls that run now.
        calls: since the member came.
        failures: of those, calls that found no node or no answer in time.
        status: what it said of itself just now; `None` if it did not answer.
        round_trip_seconds: what the latest health probe took; `None`: none was answered yet.
        spared: calls that were not made, because it refuses most of their kind.
    """

    target: str
    serving: bool
    breaker: str
    outstanding: int
    calls: int
    failures: int
    status: cache_node_pb2.GetNodeStatusResponse | None
    round_trip_seconds: float | None = None
    spared: int = 0


class StoredObjects(Protocol):
    """The objects of all nodes."""

    def pages(self, namespace: str = "", *, deadline: float) -> AsyncGenerator[tuple[str, ListedPage], None]:
        """All objects that the caller may know of, each page with the node that has them; see `NodeObjects.pages`.

        Raises:
            KvquiltError: a node did not answer to the end: then objects are missing.
        """


class StoredTraces(Protocol):
    """What all nodes can tell of chunks that were missed. None of the calls is a use of an object."""

    async def trace(self, places: Sequence[ChunkPlace], *, deadline: float) -> Trace:
        """What there is of chunks, whatever preceded them, and why objects of them left.

        Raises:
            KvquiltError: no node answered.
        """

    async def describe(self, ref: ObjectRef, model_fingerprint: str, *, deadline: float) -> Description:
        """What a stored chunk says of its text; errors as in `NodeTraces.describe`."""


class CacheNodes(Protocol):
    """All cache nodes, as a router calls them. Deadlines are in seconds and hold for all attempts of a call together.

    Calls raise errors of our tree. `UnavailableError` and `DeadlineError` come after the last attempt.
    """

    @property
    def profiles(self) -> StoredProfiles:
        """Calls about codec profiles."""

    @property
    def gates(self) -> StoredGates:
        """Calls about gates."""

    @property
    def audits(self) -> StoredAudits:
        """Calls about what audits found of gates."""

    @property
    def objects(self) -> StoredObjects:
        """Calls about all objects."""

    @property
    def traces(self) -> StoredTraces:
        """Calls that find out why something was missed."""

    async def put(self, key: bytes, container: bytes, meta: ObjectMeta, *, deadline: float) -> bool:
        """Store an encoded chunk on a node that its text belongs to; `False` if the object was there already."""

    def get(
        self, ref: ObjectRef, model_fingerprint: str, *, deadline: float, quality_layers: int = 0, held: int = 0
    ) -> AsyncIterator[cache_node_pb2.GetChunkHeader | bytes]:
        """Stream an object; see `NodeClient.get`. Another node is tried only before the first piece."""

    def batch(
        self, wanted: Sequence[tuple[ObjectRef, int]], model_fingerprint: str, *, deadline: float
    ) -> AbstractAsyncContextManager[ObjectBatch]:
        """Read several objects, each with so many quality layers (0: all), in one stream from each node.

        Nothing is raised for all of them: each read of one says what happened to it.
        """

    async def read(
        self,
        ref: ObjectRef,
        model_fingerprint: str,
        *,
        quality_layers: int,
        deadline: float,
        received: Callable[[Piece], None] | None = None,
    ) -> HeldContainer:
        """See `NodeClient.read`."""

    async def upgrade(
        self,
        ref: ObjectRef,
        model_fingerprint: str,
        held: HeldContainer,
        *,
        quality_layers: int,
        deadline: float,
        received: Callable[[Piece], None] | None = None,
    ) -> HeldContainer:
        """See `NodeClient.upgrade`."""

    async def stat(self, refs: Sequence[ObjectRef], *, deadline: float) -> dict[bytes, ObjectInfo]:
        """The objects that are known to exist, by key; those of a node that does not answer are not.

        Raises:
            KvquiltError: no node answered.
        """

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        *,
        deadline: float,
        limit: int = 16,
    ) -> VariantsFound:
        """Objects of these chunks, of this model and after this shared prefix; at most `limit` of each.

        Raises:
            KvquiltError: no node answered.
        """

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, *, deadline: float, limit: int = 8
    ) -> list[ChunkMatch]:
        """Chunks that have these fingerprints, at most `limit` of each; those of nodes that do not answer are left out.

        Raises:
            KvquiltError: no node answered.
        """

    async def touch(self, refs: Sequence[ObjectRef], documents: Sequence[str], *, deadline: float) -> set[bytes]:
        """Let documents hold objects, and count a use of each; returns the keys that are known to exist.

        Raises:
            KvquiltError: no node answered.
        """

    async def forget(
        self, *, keys: Sequence[bytes] = (), documents: Sequence[str] = (), deadline: float, damaged: bool = False
    ) -> ForgetReceipt:
        """Delete objects on all nodes, by key and by document; one receipt for all. `damaged` says that this is why.

        Raises:
            KvquiltError: a node did not do it. Others may have: forget again.
        """

    async def forget_namespace(self, namespace: str, *, deadline: float) -> ForgetReceipt:
        """Delete all objects of a namespace on all nodes; one receipt for all.

        Raises:
            KvquiltError: a node did not do all of it within the deadline. Forget again.
        """

    async def pin(
        self, documents: Sequence[str], *, seconds: float = 0.0, expiring: bool = False, deadline: float
    ) -> PinReceipt:
        """Keep what documents hold on any node from eviction; arguments as in `NodePins.pin`.

        Raises:
            CapacityError: more bytes would be pinned than a node allows; on others they may be pinned: unpin them.
            KvquiltError: a node did not do it. Others may have: pin again.
        """

    async def unpin(self, documents: Sequence[str], *, deadline: float) -> PinReceipt:
        """Pin what documents hold no more.

        Raises:
            KvquiltError: a node did not do it. Others may have: unpin again.
        """

    def known(self) -> list[NodeState]:
        """How each member is as this process sees it, by address; none is asked."""

    async def states(self, *, deadline: float) -> list[NodeState]:
        """How each member is, by address."""
