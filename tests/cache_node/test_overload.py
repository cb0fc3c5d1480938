"""More calls than a node takes: those beyond are refused at once, those within are served, and after it all are."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import CapacityError
from kvquilt_codec.types import LayerShape, Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.status import from_rpc_error
from tests.cache_node import calls
from tests.cache_node.calls import CONTAINER, DEADLINE, KEY, META, Node, serving
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.rpc.nodes.cluster import until
from tests.stack import node_process

MANY = 40
BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, OVERLOADED)


class Put:
    """A put that has sent a header and nothing more: it takes a place until it is finished."""

    def __init__(self, node: Node) -> None:
        self._rest = asyncio.Event()
        self.call = node.stub.PutChunk(self._requests(), timeout=DEADLINE)

    async def _requests(self) -> AsyncIterator[pb.PutChunkRequest]:
        yield pb.PutChunkRequest(header=calls.container_header())
        await self._rest.wait()
        yield calls.frame(0, CONTAINER)

    async def finished(self) -> bool:
        """Send the rest; whether that stored the object."""
        self._rest.set()
        return (await self.call).stored

    async def refusal(self) -> tuple[grpc.StatusCode, str | None]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call
        return caught.value.code(), from_rpc_error(caught.value).reason


async def shed(puts: Sequence[Put], count: int) -> list[Put]:
    """Those that have been refused, when so many are."""

    async def enough() -> bool:
        return sum(put.call.done() for put in puts) >= count

    await until(enough)
    return [put for put in puts if put.call.done()]


async def got(node: Node) -> bytes:
    pieces = node.client.get(KEY, FINGERPRINT, deadline=DEADLINE)
    return b"".join([piece async for piece in pieces if isinstance(piece, bytes)])


async def test_beyond_what_runs_and_waits_transfers_are_refused_and_all_else_is_answered() -> None:
    async with serving(max_transfers=2, max_waiting=3) as node:
        puts = [Put(node) for _ in range(MANY)]
        refused = await shed(puts, MANY - 5)
        assert [await put.refusal() for put in refused] == [BUSY] * (MANY - 5)
        with pytest.raises(CapacityError) as caught:
            await got(node)
        assert caught.value.retry_after is not None
        assert await node.client.stat([KEY], deadline=DEADLINE) == {}, "look-ups have places of their own"
        health = health_pb2_grpc.HealthStub(node.channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        assert (await node.counters())["calls_shed"] == MANY - 5 + 1
        for put in puts:
            put.call.cancel()


async def test_those_that_wait_are_served_when_others_end_and_then_all_is_as_before() -> None:
    async with serving(max_transfers=1, max_waiting=2) as node:
        puts = [Put(node) for _ in range(4)]
        (refused,) = await shed(puts, 1)
        assert await refused.refusal() == BUSY
        stored = await asyncio.gather(*(put.finished() for put in puts if put is not refused))
        assert sorted(stored) == [False, False, True], "one object, put three times"
        for _ in range(10):
            assert await got(node) == CONTAINER
        for put in [Put(node) for _ in range(3)]:
            put.call.cancel()  # callers that go leave their places to others
        await until(lambda: answered(node))


async def answered(node: Node) -> bool:
    try:
        return await got(node) == CONTAINER
    except CapacityError:
        return False


async def test_puts_that_would_hold_too_many_bytes_are_refused() -> None:
    size = len(CONTAINER)
    async with serving(put_bytes=2 * size, max_object=size) as node:
        puts = [Put(node) for _ in range(3)]
        (refused,) = await shed(puts, 1)
        assert await refused.refusal() == BUSY
        held = [put for put in puts if put is not refused]
        assert await held[0].finished()
        assert not await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        assert not await held[1].finished()


def test_room_for_less_than_the_largest_put_is_refused_with_advice() -> None:
    with pytest.raises(ValidationError, match=r"node.put_bytes of at least node.max_object, 2000; got 1000"):
        NodeSettings(put_bytes=1000, max_object=2000)


async def test_look_ups_have_a_bound_too_and_the_status_answers_beyond_it() -> None:
    async with serving(max_calls=1) as node:

        async def requests() -> AsyncIterator[pb.PutGateRequest]:
            yield pb.PutGateRequest(header=pb.PutGateHeader(gate_digest="00" * 32, payload_bytes=10))
            await asyncio.Event().wait()

        async def refused() -> bool:
            nonlocal running
            if running.done():  # it came while the last look-up ran
                running = node.stub.PutGate(requests(), timeout=DEADLINE)
                return False
            try:
                await node.client.stat([KEY], deadline=DEADLINE)
            except CapacityError as error:
                return error.reason == OVERLOADED
            return False

        running = node.stub.PutGate(requests(), timeout=DEADLINE)
        await until(refused)
        assert (await node.counters())["calls_shed"] >= 1
        running.cancel()


SHAPES = (LayerShape(8, 64, 64),) * 8
READERS = 120
TRANSFERS, PIPELINE = 4, 10 << 20
"""What a transfer holds at most: four objects' pieces, four messages that wait, and what gRPC has taken, of 1 MiB."""


def resident(pid: int) -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


async def test_callers_that_do_not_read_take_no_more_memory_than_those_that_are_served(tmp_path: Path) -> None:
    key, data, meta = make_object(make_chunk(1024, SHAPES), Level.LOSSLESS, "a document")
    assert len(data) > PIPELINE, "so that no answer fits into what is sent ahead"
    flags = ("--set", f"node.max_transfers={TRANSFERS}", "--set", "node.max_waiting=8")
    with node_process(tmp_path, *flags) as (process, address):
        client = NodeClient(address)
        await client.put(key, data, meta, deadline=60)

        async def whole() -> int:
            pieces = client.get(key, FINGERPRINT, deadline=60)
            return sum([len(piece) async for piece in pieces if isinstance(piece, bytes)])

        assert await whole() == len(data)
        before = resident(process.pid)
        async with grpc.aio.insecure_channel(address) as channel:
            stub = cache_node_pb2_grpc.CacheNodeServiceStub(channel)
            request = pb.GetChunkRequest(object_key=key, model_fingerprint=FINGERPRINT)
            readers = [stub.GetChunk(request, timeout=60) for _ in range(READERS)]

            async def refused() -> bool:
                return (await client.status(deadline=60)).counters["calls_shed"] >= READERS - TRANSFERS - 8

            await until(refused)
            assert resident(process.pid) - before < TRANSFERS * PIPELINE + (32 << 20)
            for reader in readers:
                reader.cancel()
        assert await whole() == len(data)
        await client.close()
