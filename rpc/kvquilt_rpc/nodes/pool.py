"""All cache nodes as one: what a router calls. Implements `CacheNodes`."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from kvquilt_codec.catalog import ChunkMatch, ObjectInfo, ObjectMeta
from kvquilt_codec.container import HeldContainer
from kvquilt_codec.errors import DeadlineError, UnavailableError
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.holding import extended, held_of
from kvquilt_rpc.node_batches import Piece
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes import merging
from kvquilt_rpc.nodes.attempts import Answer, Answered, Attempts, Call, answers
from kvquilt_rpc.nodes.batches import Batch
from kvquilt_rpc.nodes.everywhere import Everywhere
from kvquilt_rpc.nodes.files import PoolAudits, PoolGates, PoolProfiles
from kvquilt_rpc.nodes.membership import Resolve, resolve
from kvquilt_rpc.nodes.objects import PoolObjects
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.routing import Routing
from kvquilt_rpc.nodes.traces import PoolTraces
from kvquilt_rpc.nodes.types import COUNTERS, NodeState, PoolOptions, VariantsFound
from kvquilt_rpc.nodes.watching import Watch
from kvquilt_rpc.security import Credentials

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Opened:
    """A stream that has begun."""

    first: Piece
    rest: AsyncGenerator[Piece, None]


class NodePool(Everywhere):
    """Calls cache nodes. Open it with `open_nodes`; further arguments are as there.

    Attributes:
        profiles: calls about codec profiles.
        gates: calls about gates.
        audits: calls about what audits found of gates.
        objects: calls about all objects.
        traces: calls that find out why something was missed.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        options: PoolOptions,
        counters: Counters,
        credentials: Credentials | None = None,
        resolver: Resolve = resolve,
        answered: Answered | None = None,
    ) -> None:
        draw = random.Random()  # noqa: S311  spreads load; nothing is secret about it
        self._options = options
        self._counters = counters
        self._routing = Routing(options, clock=time.monotonic, draw=draw)
        self._attempts = Attempts(options, counters, chance=draw.random, answered=answered)
        self._watch = Watch(addresses, self._routing, options, counters, credentials or Credentials(), resolver)
        self.profiles = PoolProfiles(self._attempts, self._routing, shared=options.shared_store)
        self.gates = PoolGates(self._attempts, self._routing)
        self.audits = PoolAudits(self._attempts, self._routing)
        self.objects = PoolObjects(self._routing, shared=options.shared_store)
        most, shared = options.asked_for_text, options.shared_store
        self.traces = PoolTraces(self._attempts, self._routing, most=most, shared=shared)

    async def start(self) -> None:
        """Find the members, and begin to watch them."""
        await self._watch.start()

    async def close(self) -> None:
        """Close all clients; running calls fail."""
        await self._watch.close()

    async def put(self, key: bytes, container: bytes, meta: ObjectMeta, *, deadline: float) -> bool:
        """See `CacheNodes`."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> bool:
            return await client.put(key, container, meta, deadline=seconds)

        orders = {meta.chunk_key: self._routing.store(meta.chunk_key)}
        (answer,) = await self._attempts.ask(orders, Call("put", work, optional=True), deadline)
        return answer.given

    async def get(
        self, ref: ObjectRef, model_fingerprint: str, *, deadline: float, quality_layers: int = 0, held: int = 0
    ) -> AsyncGenerator[Piece, None]:
        """See `CacheNodes`."""
        end = time.monotonic() + deadline

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> _Opened:
            left = max(0.0, end - time.monotonic())
            pieces = client.get(ref.key, model_fingerprint, deadline=left, quality_layers=quality_layers, held=held)
            try:
                async with asyncio.timeout(seconds):
                    return _Opened(await anext(pieces), pieces)
            except BaseException as error:
                await pieces.aclose()
                if isinstance(error, TimeoutError):
                    raise DeadlineError(
                        f"expected an object within {seconds:.3g} s; it did not begin to come"
                    ) from None
                raise

        order, spread = self._routing.read(ref)
        if spread:
            self._counters.add("node_spread_reads")
        call = Call("get", work, self._options.shared_store, lambda opened: opened.rest.aclose(), optional=True)
        (answer,) = await self._attempts.ask({ref.chunk_key: order}, call, deadline)
        async with aclosing(answer.given.rest) as rest:
            yield answer.given.first
            async for piece in self._watched(answer, rest):
                yield piece

    @asynccontextmanager
    async def batch(
        self, wanted: Sequence[tuple[ObjectRef, int]], model_fingerprint: str, *, deadline: float
    ) -> AsyncIterator[Batch]:
        """See `CacheNodes`."""
        shared = self._options.shared_store
        batch = Batch(wanted, model_fingerprint, self._attempts, shared=shared, deadline=deadline)
        try:
            if hot := batch.start(self._routing):
                self._counters.add("node_spread_reads", hot)
            yield batch
        finally:
            await batch.close()

    async def _watched(self, answer: Answer[_Opened], rest: AsyncIterator[Piece]) -> AsyncGenerator[Piece, None]:
        """The rest of a stream, which counts as a call that runs; that it breaks says something of the node."""
        with answer.member.busy():
            try:
                async for piece in rest:
                    yield piece
            except UnavailableError:
                answer.member.failed()
                raise

    async def read(
        self,
        ref: ObjectRef,
        model_fingerprint: str,
        *,
        quality_layers: int,
        deadline: float,
        received: Callable[[Piece], None] | None = None,
    ) -> HeldContainer:
        """See `CacheNodes`."""
        pieces = self.get(ref, model_fingerprint, deadline=deadline, quality_layers=quality_layers)
        return await held_of(pieces, model_fingerprint, quality_layers, received)

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
        """See `CacheNodes`."""
        known = held.quality_layers
        pieces = self.get(ref, model_fingerprint, deadline=deadline, quality_layers=quality_layers, held=known)
        return await extended(held, pieces, quality_layers, received)

    async def stat(self, refs: Sequence[ObjectRef], *, deadline: float) -> dict[bytes, ObjectInfo]:
        """See `CacheNodes`."""

        async def work(client: NodeClient, keys: Sequence[bytes], seconds: float) -> dict[bytes, ObjectInfo]:
            found = await client.stat(keys, deadline=seconds)
            return {key: replace(info, node=client.target) for key, info in found.items()}

        found: dict[bytes, ObjectInfo] = {}
        for own in await self._split(refs, Call("stat", work, self._options.shared_store, optional=True), deadline):
            found |= own
        return found

    async def touch(self, refs: Sequence[ObjectRef], documents: Sequence[str], *, deadline: float) -> set[bytes]:
        """See `CacheNodes`."""

        async def work(client: NodeClient, keys: Sequence[bytes], seconds: float) -> set[bytes]:
            return await client.touch(keys, documents, deadline=seconds)

        return set().union(*await self._split(refs, Call("touch", work, optional=True), deadline))

    async def _split(self, refs: Sequence[ObjectRef], call: Call[Result], deadline: float) -> list[Result]:
        """Ask about objects, each node about its own; what those said that answered."""
        if not refs:
            return []
        usable = self._routing.usable()
        anywhere = self._routing.anywhere(usable) if self._options.shared_store else None
        orders = {ref.key: anywhere or self._routing.objects(ref, usable) for ref in refs}
        found = await self._attempts.ask(orders, call, deadline)
        return answers(found)

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        *,
        deadline: float,
        limit: int = 16,
    ) -> VariantsFound:
        """See `CacheNodes`."""
        if not chunk_keys:
            return VariantsFound({}, {})

        async def work(client: NodeClient, keys: Sequence[bytes], seconds: float) -> dict[bytes, list[ObjectInfo]]:
            found = await client.find_variants(keys, model_fingerprint, prefix_digest, deadline=seconds, limit=limit)
            return {key: [replace(info, node=client.target) for info in infos] for key, infos in found.items()}

        usable = self._routing.usable()
        shared = self._options.shared_store
        anywhere = self._routing.anywhere(usable) if shared else None
        orders = {key: anywhere or self._routing.chunk(key, usable) for key in chunk_keys}
        found = await self._attempts.ask(orders, Call("find_variants", work, shared, optional=True), deadline)
        answers(found)
        return merging.variants(found, self._routing.home, shared=shared)

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, *, deadline: float, limit: int = 8
    ) -> list[ChunkMatch]:
        """See `CacheNodes`. Of more than `asked_for_text` nodes with stores of their own as many are drawn."""

        async def work(client: NodeClient, _: Sequence[bytes], seconds: float) -> list[ChunkMatch]:
            return await client.find_chunks(fingerprints, model_fingerprint, deadline=seconds, limit=limit)

        call = Call("find_chunks", work, self._options.shared_store, optional=True)
        order = self._routing.anywhere(self._routing.usable())
        if self._options.shared_store:
            (answer,) = await self._attempts.ask({b"": order}, call, deadline)
            return answer.given
        found = await self._attempts.each(order[: self._options.asked_for_text], call, deadline)
        given = answers(found)
        return merging.matches(given, limit)

    def known(self) -> list[NodeState]:
        """See `CacheNodes`."""
        return sorted((member.state(None) for member in self._routing.members.values()), key=lambda state: state.target)

    async def states(self, *, deadline: float) -> list[NodeState]:
        """See `CacheNodes`."""
        call = Call("status", lambda client, _, seconds: client.status(deadline=seconds))
        found = await self._attempts.each(self._routing.members.values(), call, deadline)
        return sorted((answer.member.state(answer.result) for answer in found), key=lambda state: state.target)


@asynccontextmanager
async def open_nodes(
    addresses: Sequence[str],
    options: PoolOptions | None = None,
    counters: Counters | None = None,
    *,
    credentials: Credentials | None = None,
    resolver: Resolve = resolve,
    answered: Answered | None = None,
) -> AsyncIterator[NodePool]:
    """Call cache nodes within this context.

    Args:
        addresses: as in `router.nodes`.
        options: by default those of `PoolOptions`.
        counters: that have the names of `COUNTERS`; by default of its own.
        credentials: as whom nodes are called. With TLS, the certificate of a node behind a DNS name is for that name.
        resolver: looks DNS names up.
        answered: told of every call that a node answered.

    Raises:
        BadRequestError: an address that is none; see also `open_channel`.
        NotFoundError: see there.
    """
    pool = NodePool(
        addresses, options or PoolOptions(), counters or Counters(COUNTERS), credentials, resolver, answered
    )
    try:
        await pool.start()
        yield pool
    finally:
        await pool.close()
