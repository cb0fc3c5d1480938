"""Node processes that share a Valkey, called as a router calls them."""

import asyncio
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc

from kvquilt_codec.errors import NotFoundError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, open_nodes
from kvquilt_rpc.nodes.throttle import Throttle
from kvquilt_rpc.nodes.types import PoolOptions
from kvquilt_rpc.status import translated
from load.shapes import Request, Shapes
from processes import yield_cores
from store.objects import Made
from store.stage import TIMEOUT, Stage
from tests.codec.samples import FINGERPRINT, PREFIX
from tests.rpc.nodes.cluster import until

SHARED = ("node.index=redis", "node.eviction=gdsf", "node.redis_prefix=shared")
DEADLINE = 1.0
"""Seconds that a request has: beyond it a prompt of this length would as well be computed."""

_FIND = "/kvquilt.v1.CacheNodeService/FindVariants"
_WARM = 2
"""Reads that bring an object into a node's memory."""


class NodeLoad:
    """Prompts' chunks looked up and got, and now and then an object put."""

    name = "objects"
    deadline = DEADLINE
    workers = 8

    def __init__(
        self, stage: Stage, count: int, pool: CacheNodes, options: PoolOptions, addresses: Sequence[str], shapes: Shapes
    ) -> None:
        self.nodes = count
        self._options = options
        self.addresses = addresses
        self.pids = {"nodes": stage.node_pids, "store": [stage.valkey.process.pid]}
        self._pool = pool
        self._shapes = shapes

    async def ask(self, number: int) -> int:
        """See `Load.ask`."""
        request = self._shapes.draw(number)
        return await (self._put(request.put) if request.put is not None else self._get(request))

    async def settle(self) -> None:
        """See `Load.settle`: what was put is not there again."""
        client = NodeClient(self.addresses[0])
        try:
            await client.forget(keys=[made.key for made in self._shapes.new], deadline=TIMEOUT)
            # What calls told the pool of its nodes is of the rate before; its probes find out how they are now.
            await until(self._reachable)
        finally:
            await client.close()

    async def close(self) -> None:
        """Close what only this load has."""

    async def _reachable(self) -> bool:
        return all(state.breaker == "closed" for state in await self._pool.states(deadline=TIMEOUT))

    async def fill(self) -> None:
        """Store what is read, and read it into the nodes' memory."""
        for made in self._shapes.stored:
            await self._pool.put(made.key, made.data, made.meta, deadline=TIMEOUT)
        for _ in range(_WARM):
            for made in self._shapes.stored:
                await self._pieces([ObjectRef(made.key, made.meta.chunk_key)], TIMEOUT)

    async def _put(self, made: Made) -> int:
        await self._pool.put(made.key, made.data, made.meta, deadline=self.deadline)
        return len(made.data)

    async def _get(self, request: Request) -> int:
        until = asyncio.get_running_loop().time() + self.deadline
        chunks = [made.meta.chunk_key for made in request.gets]
        found = await self._pool.find_variants(chunks, FINGERPRINT, PREFIX, deadline=self.deadline)
        for error in found.failed.values():
            raise error
        if len(found.objects) < len(chunks):
            raise NotFoundError(f"expected {len(chunks)} objects; found {len(found.objects)}")
        refs = [ObjectRef.of(infos[0]) for infos in found.objects.values()]
        return await self._pieces(refs, until - asyncio.get_running_loop().time())

    async def _pieces(self, refs: Sequence[ObjectRef], deadline: float) -> int:
        async with self._pool.batch([(ref, 0) for ref in refs], FINGERPRINT, deadline=max(deadline, 1e-3)) as batch:

            async def one(ref: ObjectRef) -> int:
                async with aclosing(batch.pieces(ref)) as pieces:
                    return sum([len(piece) async for piece in pieces if isinstance(piece, bytes)])

            sizes = await asyncio.gather(*map(one, refs), return_exceptions=True)
        for size in sizes:
            if isinstance(size, BaseException):
                raise size
        return sum(size for size in sizes if isinstance(size, int))


class LookupLoad(NodeLoad):
    """Look-ups alone, of a prompt's chunks each, by calls that cost the caller as little as they can.

    Requests are written once and answers not read: a caller that does what a router does has half of a node's work. It
    throttles itself as a router does.
    """

    name = "look-ups"

    async def fill(self) -> None:
        """See `NodeLoad.fill`."""
        await super().fill()
        own = [("grpc.use_local_subchannel_pool", 1)]
        self._channels = [grpc.aio.insecure_channel(address, options=own) for address in self.addresses]
        self._calls = [channel.unary_stream(_FIND) for channel in self._channels]
        keys = [made.meta.chunk_key for made in self._shapes.stored]
        request = pb.FindVariantsRequest(chunk_keys=keys, model_fingerprint=FINGERPRINT, prefix_digest=PREFIX)
        self._request = request.SerializeToString()
        options = self._options
        self._throttles = [
            Throttle(
                address,
                time.monotonic,
                factor=options.throttle_factor,
                window=options.throttle_seconds,
                spared=lambda: None,
            )
            for address in self.addresses
        ]

    async def ask(self, number: int) -> int:
        """See `Load.ask`."""
        node = number % len(self._calls)
        with self._throttles[node].call("look-up", random.random()):
            return await self._looked_up(self._calls[node])

    async def _looked_up(self, node: Any) -> int:
        async with translated():
            call = node(self._request, timeout=self.deadline)
            nbytes = sum([len(answer) async for answer in call])
        if not nbytes:
            raise NotFoundError("expected chunks; none was found")
        return nbytes

    async def settle(self) -> None:
        """See `Load.settle`."""

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()


@asynccontextmanager
async def loaded(
    kind: type[NodeLoad], count: int, folder: Path, shapes: Shapes, *, throttled: bool = True
) -> AsyncIterator[NodeLoad]:
    """Fresh processes with everything stored, and callers that throttle themselves, or not."""
    options = PoolOptions(shared_store=True)
    if not throttled:
        options = replace(options, throttle_factor=math.inf)
    with ExitStack() as stack:
        stage = await asyncio.to_thread(Stage, folder, stack)
        addresses = [(await asyncio.to_thread(stage.node, *SHARED, on_redis=True)).address for _ in range(count)]
        async with open_nodes(addresses, options) as pool:
            load = kind(stage, count, pool, options, addresses, shapes)
            try:
                await load.fill()
                yield_cores(stage.node_pids)
                yield load
            finally:
                await load.close()
