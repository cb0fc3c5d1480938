"""Nodes that have too much to do and say so: others are asked if they can help, and none is left alone for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from kvquilt_codec.errors import CapacityError, DeadlineError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import status
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import SERVICE_NAME
from kvquilt_rpc.nodes import ObjectRef, PoolOptions, open_nodes
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.placement import Site
from kvquilt_rpc.nodes.types import COUNTERS
from tests.rpc.nodes.clock import Clock
from tests.rpc.nodes.cluster import DEADLINE

REF = ObjectRef(bytes(32), bytes(32))
CALLS = 60


class Answering:
    """A node that answers look-ups, or refuses them all."""

    def __init__(self, *, refuses: bool) -> None:
        self._refuses = refuses
        self.calls = 0

    async def stat(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        if self._refuses:
            await status.abort(context, CapacityError("expected room; there is none", reason=OVERLOADED))
        return pb.StatChunksResponse().SerializeToString()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(self.stat)
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, {"StatChunks": handler})])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        yield address
        await server.stop(0)


async def test_with_a_shared_store_another_node_is_asked_within_the_budget_and_none_is_left_alone() -> None:
    nodes = [Answering(refuses=True), Answering(refuses=False)]
    counters = Counters(COUNTERS)
    options = PoolOptions(shared_store=True, retry_ratio=0.1, reserve=4, health_seconds=60)
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(node.serving()) for node in nodes]
        pool = await stack.enter_async_context(open_nodes(addresses, options, counters))
        refused = []
        for _ in range(CALLS):
            try:
                await pool.stat([REF], deadline=DEADLINE)
            except CapacityError as error:
                refused.append(error.reason)
        assert set(refused) == {OVERLOADED}
        counted = counters.snapshot()
        assert nodes[0].calls + nodes[1].calls == CALLS + counted["node_retries"]
        assert 4 <= counted["node_retries"] <= 4 + 0.1 * CALLS
        assert nodes[1].calls == CALLS - len(refused)
        assert counted["node_breakers_opened"] == 0
        assert {state.breaker for state in await pool.states(deadline=DEADLINE)} == {"closed"}


async def test_a_node_with_a_store_of_its_own_is_asked_once() -> None:
    nodes = [Answering(refuses=True), Answering(refuses=True)]
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(node.serving()) for node in nodes]
        pool = await stack.enter_async_context(open_nodes(addresses, PoolOptions(health_seconds=60)))
        for _ in range(10):
            with pytest.raises(CapacityError):
                await pool.stat([REF], deadline=DEADLINE)
        assert nodes[0].calls + nodes[1].calls == 10


async def test_a_call_that_had_no_time_says_nothing_of_its_node() -> None:
    member = Member(Site("127.0.0.1:1"), None, PoolOptions(), Counters(COUNTERS), Clock())  # type: ignore[arg-type]

    def late(*, had_time: bool) -> None:
        with pytest.raises(DeadlineError), member.judged(had_time=had_time):
            raise DeadlineError("expected an answer")

    for _ in range(20):
        late(had_time=False)
    assert member.available
    for _ in range(5):
        late(had_time=True)
    assert not member.available
