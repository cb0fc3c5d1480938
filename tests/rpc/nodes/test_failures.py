"""Nodes that refuse, hang or die while others serve: calls go on, within their deadlines and budgets."""

import asyncio
import os
import signal
from contextlib import AsyncExitStack

import grpc
import pytest

from kvquilt_codec.errors import DeadlineError, KvquiltError, UnavailableError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_client import SERVICE_NAME
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, PoolOptions, VariantsFound, open_nodes
from kvquilt_rpc.nodes.types import COUNTERS
from tests.codec.samples import FINGERPRINT, PREFIX
from tests.proxy import valve
from tests.rpc.nodes.cluster import CHUNKS, DEADLINE, OBJECTS, found, one_store, own_stores, put_all, until, whole
from tests.stack import node_process

QUICK = {"breaker_wait": 0.1, "breaker_last_wait": 0.2, "health_seconds": 0.2}
SHORT = 0.5
DATA = {meta.chunk_key: data for _, data, meta in OBJECTS}


async def looked_up(nodes: CacheNodes, deadline: float = DEADLINE) -> VariantsFound:
    return await nodes.find_variants(CHUNKS, FINGERPRINT, PREFIX, deadline=deadline)


async def breakers(nodes: CacheNodes) -> dict[str, str]:
    return {state.target: state.breaker for state in await nodes.states(deadline=DEADLINE)}


async def test_a_refused_call_is_tried_as_often_as_is_set_and_not_once_more():
    calls = 0

    async def refuse(request: bytes, context: grpc.aio.ServicerContext) -> bytes:
        nonlocal calls
        calls += 1
        await context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        return b""

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, {"StatChunks": handler})])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    counters = Counters(COUNTERS)
    ref = ObjectRef(bytes(32), bytes(32))
    async with open_nodes([address], PoolOptions(attempts=3, health_seconds=60), counters) as nodes:
        with pytest.raises(UnavailableError, match="not now"):
            await nodes.stat([ref], deadline=DEADLINE)
        assert calls == 3, "gRPC's own retries must not multiply with these"
        with pytest.raises(UnavailableError):
            await nodes.stat([ref], deadline=DEADLINE)
        assert calls == 5, "five failures in a row: then it is left alone"
        with pytest.raises(UnavailableError, match="left alone"):
            await nodes.stat([ref], deadline=DEADLINE)
        assert calls == 5
    assert counters.snapshot()["node_breakers_opened"] == 1
    await server.stop(0)


async def test_attempts_of_many_failing_calls_stay_within_the_budget():
    counters = Counters(COUNTERS)
    options = PoolOptions(retry_ratio=0.1, reserve=4, breaker_threshold=10_000, health_seconds=60)
    async with own_stores(1) as addresses, open_nodes([*addresses, "127.0.0.1:1"], options, counters) as nodes:
        for _ in range(60):
            await looked_up(nodes)
        counted = counters.snapshot()
        # Each look-up is one call of each of the two nodes, and half of them fail.
        assert 4 + 0.1 * 60 <= counted["node_retries"] <= 4 + 0.1 * 120
        assert counted["node_retries"] + counted["node_retries_refused"] == 60


async def test_what_a_dead_node_had_is_a_miss_with_a_reason_and_the_rest_is_found():
    async with own_stores(2) as addresses, AsyncExitStack() as stack:
        opened = asyncio.Event()
        opened.set()
        through = await stack.enter_async_context(valve(addresses[1], opened))
        counters = Counters(COUNTERS)
        options = PoolOptions(**QUICK)
        nodes = await stack.enter_async_context(open_nodes([addresses[0], through], options, counters))
        await put_all(nodes)
        refs = await found(nodes)
        lost = {key for key, ref in refs.items() if ref.node == through}
        assert 0 < len(lost) < len(CHUNKS)
        opened.clear()
        async with asyncio.timeout(20 * SHORT):
            hanging = await looked_up(nodes, SHORT)
        assert hanging.objects.keys() == set(CHUNKS) - lost
        assert hanging.failed.keys() == lost
        assert {type(error) for error in hanging.failed.values()} <= {DeadlineError, UnavailableError}
        with pytest.raises((DeadlineError, UnavailableError)):
            await whole(nodes, refs[min(lost)], SHORT)

        async def left_alone() -> bool:
            await looked_up(nodes, SHORT)
            return (await breakers(nodes))[through] != "closed"

        await until(left_alone)
        assert counters.snapshot()["node_breakers_opened"] >= 1
        # What is stored meanwhile goes to the next node, and is found there.
        key, data, meta = next(item for item in OBJECTS if item[2].chunk_key == min(lost))
        assert await nodes.put(key, data, meta, deadline=DEADLINE)
        assert (await found(nodes))[meta.chunk_key].node == addresses[0]
        opened.set()

        async def back() -> bool:
            return (await found(nodes)).keys() == set(CHUNKS)

        await until(back)


async def test_late_reads_are_hedged_with_a_shared_store_within_their_budget():
    counters = Counters(COUNTERS)
    # When the hedges are used up, five calls run into their deadline and are tried again; then the node is left alone.
    options = PoolOptions(shared_store=True, hot_uses=0, reserve=5, breaker_wait=600, health_seconds=600)
    async with one_store(2) as addresses, AsyncExitStack() as stack:
        opened = asyncio.Event()
        opened.set()
        through = await stack.enter_async_context(valve(addresses[1], opened))
        nodes = await stack.enter_async_context(open_nodes([addresses[0], through], options, counters))
        await put_all(nodes)
        for key, data, meta in OBJECTS:
            assert await whole(nodes, ObjectRef(key, meta.chunk_key)) == data
        before = counters.snapshot()["node_hedges"]
        opened.clear()
        for key, data, meta in OBJECTS:
            assert await whole(nodes, ObjectRef(key, meta.chunk_key), 6 * SHORT) == data
        counted = counters.snapshot()
        # The node that answers may be late too, on a busy machine: such hedges win nothing.
        assert counted["node_hedges"] > before
        assert counted["node_hedges_won"] >= 1
        assert counted["node_hedges"] <= 5 + options.hedge_ratio * 3 * len(OBJECTS)
        assert counted["node_retries"] <= 5
        opened.set()


async def test_without_a_shared_store_no_read_is_hedged():
    counters = Counters(COUNTERS)
    async with own_stores(2) as addresses, open_nodes(addresses, counters=counters) as nodes:
        await put_all(nodes)
        refs = await found(nodes)
        for _ in range(2):
            for chunk in CHUNKS:
                assert await whole(nodes, refs[chunk]) == DATA[chunk]
        assert counters.snapshot()["node_hedges"] == 0


async def test_a_node_process_that_stops_and_later_dies_under_load(tmp_path):
    counters = Counters(COUNTERS)
    with (
        node_process(tmp_path / "a") as (_, first),
        node_process(tmp_path / "b") as (_, second),
        node_process(tmp_path / "c") as (victim, third),
    ):
        async with open_nodes([first, second, third], PoolOptions(**QUICK), counters) as nodes:
            await put_all(nodes)
            lost = {key for key, ref in (await found(nodes)).items() if ref.node == third}
            assert lost
            seen: list[set[bytes]] = []
            running = [asyncio.create_task(load(nodes, third, seen)) for _ in range(3)]

            async def all_found() -> bool:
                assert not any(task.done() for task in running), [task.exception() for task in running if task.done()]
                return set(CHUNKS) in seen[-3:]

            async def only_the_rest() -> bool:
                assert not any(task.done() for task in running), [task.exception() for task in running if task.done()]
                return seen[-3:] == [set(CHUNKS) - lost] * 3 and (await breakers(nodes))[third] != "closed"

            await until(all_found)
            os.kill(victim.pid, signal.SIGSTOP)
            await until(only_the_rest)
            os.kill(victim.pid, signal.SIGCONT)
            await until(all_found)
            opened = counters.snapshot()["node_breakers_opened"]
            victim.kill()
            await until(only_the_rest)
            assert counters.snapshot()["node_breakers_opened"] > opened >= 1
            await asyncio.to_thread(victim.wait, 60)
            with node_process(tmp_path / "c", "--port", third.rpartition(":")[2]) as (_, again):
                assert again == third
                await until(all_found)
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def load(nodes: CacheNodes, victim: str, seen: list[set[bytes]]) -> None:
    """Requests: look everything up, read what is found. What fails is missed, and only the victim refuses.

    On a busy machine any node may be late; `tests/e2e/test_several_nodes.py` leaves time enough.
    """
    while True:
        answer = await looked_up(nodes, 8 * SHORT)
        assert answer.objects.keys() | answer.failed.keys() == set(CHUNKS)
        right: set[bytes] = set()
        for key, infos in answer.objects.items():
            try:
                assert await whole(nodes, ObjectRef.of(infos[0]), 8 * SHORT) == DATA[key]
                right.add(key)
            except KvquiltError as error:
                assert infos[0].node == victim or isinstance(error, DeadlineError), error  # noqa: PT017
        seen.append(right)


async def test_a_node_that_does_not_answer_is_shown_without_what_it_would_say_of_itself():
    async with own_stores(1) as addresses, open_nodes([*addresses, "127.0.0.1:1"]) as nodes:
        states = {state.target: state for state in await nodes.states(deadline=DEADLINE)}
        assert isinstance(states[addresses[0]].status, pb.GetNodeStatusResponse)
        assert states["127.0.0.1:1"].status is None
        assert (states["127.0.0.1:1"].calls, states["127.0.0.1:1"].failures) == (1, 1)
