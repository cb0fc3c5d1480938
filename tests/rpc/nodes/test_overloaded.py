"""Nodes that have too much to do and say so: others are asked if they can help, and none is left alone for it.

They are spared what they would refuse most likely, but for what must not be left out.
"""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
import pytest

from kvquilt_codec.errors import CapacityError, DeadlineError
from kvquilt_rpc import status
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import SERVICE_NAME
from kvquilt_rpc.nodes import ObjectRef, PoolOptions, open_nodes
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.placement import Site
from kvquilt_rpc.nodes.types import COUNTERS
from tests.rpc.nodes.clock import Clock
from tests.rpc.nodes.cluster import DEADLINE, until

REF = ObjectRef(bytes(32), bytes(32))
CALLS = 60


class Answering:
    """A node that answers look-ups and forgets, or refuses them all."""

    def __init__(self, *, refuses: bool) -> None:
        self.refuses = refuses
        self.calls = 0

    async def answer(self, request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        self.calls += 1
        if self.refuses:
            await status.abort(context, CapacityError("expected room; there is none", reason=OVERLOADED))
        return b""  # of either call an answer that says nothing was found

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        server = grpc.aio.server()
        handlers = dict.fromkeys(("StatChunks", "ForgetChunks"), grpc.unary_unary_rpc_method_handler(self.answer))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)])
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        yield address
        await server.stop(0)


async def test_with_a_shared_store_another_node_is_asked_within_the_budget_and_none_is_left_alone() -> None:
    nodes = [Answering(refuses=True), Answering(refuses=False)]
    counters = Counters(COUNTERS)
    options = PoolOptions(shared_store=True, retry_ratio=0.1, reserve=4, health_seconds=60, throttle_factor=math.inf)
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
        options = PoolOptions(health_seconds=60, throttle_factor=math.inf)
        pool = await stack.enter_async_context(open_nodes(addresses, options))
        for _ in range(10):
            with pytest.raises(CapacityError):
                await pool.stat([REF], deadline=DEADLINE)
        assert nodes[0].calls + nodes[1].calls == 10


async def test_what_a_node_would_refuse_is_asked_of_another_at_once_and_costs_no_retry() -> None:
    nodes = [Answering(refuses=True), Answering(refuses=False)]
    counters = Counters(COUNTERS)
    options = PoolOptions(shared_store=True, retry_ratio=0, reserve=3, health_seconds=60, throttle_seconds=600)
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(node.serving()) for node in nodes]
        pool = await stack.enter_async_context(open_nodes(addresses, options, counters))
        refused = 0
        for _ in range(4 * CALLS):
            try:
                await pool.stat([REF], deadline=DEADLINE)
            except CapacityError:
                refused += 1
        counted = counters.snapshot()
        assert counted["node_calls_spared"] > CALLS, "about half of the calls went to it first"
        hedged = nodes[0].calls - counted["node_retries"] - counted["node_retries_refused"]
        assert 0 <= hedged <= counted["node_hedges"], "a hedge that is refused leaves the first call alone"
        assert (counted["node_retries"], counted["node_retries_refused"]) == (3, refused)
        assert nodes[1].calls >= 4 * CALLS - refused
        spared = {state.target: state.spared for state in await pool.states(deadline=DEADLINE)}
        assert spared == {addresses[0]: counted["node_calls_spared"], addresses[1]: 0}


async def test_a_node_that_refuses_is_spared_most_calls_but_no_forget_and_then_gets_all_again() -> None:
    node, counters = Answering(refuses=True), Counters(COUNTERS)
    async with node.serving() as address, open_nodes([address], PoolOptions(health_seconds=60), counters) as pool:

        async def taken() -> bool:
            try:
                await pool.stat([REF], deadline=DEADLINE)
            except CapacityError:
                return False
            return True

        assert not any([await taken() for _ in range(10 * CALLS)])
        assert node.calls + counters.snapshot()["node_calls_spared"] == 10 * CALLS
        assert node.calls < 5 * CALLS
        before = node.calls
        for _ in range(CALLS):
            with pytest.raises(CapacityError):
                await pool.forget(keys=[REF.key], deadline=DEADLINE)
        assert node.calls == before + CALLS, "what is to be forgotten is asked for"
        node.refuses = False
        await until(taken)
        seconds = PoolOptions().throttle_seconds
        await asyncio.sleep(seconds)  # after which what it refused is forgotten: the promise is this time
        spared = counters.snapshot()["node_calls_spared"]
        assert all([await taken() for _ in range(CALLS)])
        assert counters.snapshot()["node_calls_spared"] == spared
        assert (await pool.states(deadline=DEADLINE))[0].breaker == "closed"


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
