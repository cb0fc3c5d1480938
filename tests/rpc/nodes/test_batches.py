"""Objects that are read together from several nodes: what one node, or one object, costs the others."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from kvquilt_codec.errors import KvquiltError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1.common_pb2 import Frame
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.node_batches import METHOD
from kvquilt_rpc.node_client import SERVICE_NAME
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, PoolOptions, batches, open_nodes
from kvquilt_rpc.nodes.types import COUNTERS
from tests.codec.samples import FINGERPRINT
from tests.rpc.nodes.cluster import DEADLINE, OBJECTS, found, one_store, own_stores, put_all, sent

DATA = {key: data for key, data, _ in OBJECTS}
Answer = Callable[[pb.GetChunksRequest], AsyncIterator[pb.GetChunksResponse | grpc.StatusCode]]
REFS = [ObjectRef(key, meta.chunk_key) for key, _, meta in OBJECTS]
KEYS = [ref.key for ref in REFS]


async def read(nodes: CacheNodes, refs: Sequence[ObjectRef], deadline: float = DEADLINE) -> dict[bytes, bytes | str]:
    """Of each object its bytes, or the reason why it did not come."""
    async with nodes.batch([(ref, 0) for ref in refs], FINGERPRINT, deadline=deadline) as batch:

        async def one(ref: ObjectRef) -> bytes | str:
            try:
                return b"".join([piece async for piece in batch.pieces(ref) if isinstance(piece, bytes)])
            except KvquiltError as error:
                return error.reason

        return dict(zip([ref.key for ref in refs], await asyncio.gather(*map(one, refs)), strict=True))


async def test_each_node_is_asked_once_for_its_own() -> None:
    async with own_stores(3) as addresses, open_nodes(addresses) as nodes:
        await put_all(nodes)
        refs = [*(await found(nodes)).values()]
        before = {state.target: state.calls for state in await nodes.states(deadline=DEADLINE)}
        assert await read(nodes, refs) == DATA
        after = {state.target: state.calls for state in await nodes.states(deadline=DEADLINE)}
        assert [after[target] - before[target] for target in after] == [2, 2, 2], "and once how it is"
        assert sum([await sent(address) for address in addresses]) == len(OBJECTS)


async def test_more_than_one_call_takes_and_more_bytes_than_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "_AHEAD", 1)
    monkeypatch.setattr(batches, "MAX_CHUNKS", 7)
    async with own_stores(1) as addresses, open_nodes(addresses) as nodes:
        await put_all(nodes)
        assert await read(nodes, REFS) == DATA
        async with nodes.batch([(ref, 0) for ref in REFS], FINGERPRINT, deadline=DEADLINE) as batch:
            for ref in REFS[1:]:
                await batch.pieces(ref).aclose()
            pieces = batch.pieces(REFS[0])
            came = [piece async for piece in pieces]
            assert isinstance(came[0], pb.GetChunkHeader), "what nobody wants any more holds up nothing"
            assert b"".join(piece for piece in came[1:] if isinstance(piece, bytes)) == DATA[REFS[0].key]


async def test_of_a_node_that_does_not_answer_only_its_own_objects_are_missed() -> None:
    async with own_stores(2) as addresses:
        async with open_nodes(addresses) as nodes:
            await put_all(nodes)
            refs = [*(await found(nodes)).values()]
        dead = "127.0.0.1:1"
        lost = [replace(ref, node=dead) for ref in refs[30:]]
        async with open_nodes([*addresses, dead], PoolOptions(health_seconds=60)) as nodes:
            got = await read(nodes, [*refs[:30], *lost])
        assert all(got[ref.key] == DATA[ref.key] for ref in refs[:30])
        assert {got[ref.key] for ref in lost} == {"unavailable"}


# Nodes that share a store, one of which is not as it should be


def whole(number: int, key: bytes) -> pb.GetChunksResponse:
    data = DATA[key]
    header = pb.GetChunkHeader(payload_bytes=len(data), container_bytes=len(data))
    return pb.GetChunksResponse(chunk=number, header=header, frame=Frame(data=data))


@asynccontextmanager
async def beside(answer: Answer) -> AsyncIterator[tuple[CacheNodes, Counters, list[list[bytes]]]]:
    """A node with all objects, and one that answers batches so; what that one was asked for, call by call."""
    asked: list[list[bytes]] = []

    async def answered(
        request: pb.GetChunksRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[pb.GetChunksResponse]:
        asked.append([wanted.object_key for wanted in request.chunks])
        async for one in answer(request):
            if isinstance(one, grpc.StatusCode):
                await context.abort(one, "no more")
            yield one

    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        answered, pb.GetChunksRequest.FromString, pb.GetChunksResponse.SerializeToString
    )
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, {METHOD: handler})])
    odd = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    counters = Counters(COUNTERS)
    options = PoolOptions(shared_store=True, health_seconds=60, hot_uses=0, reserve=2)
    try:
        async with one_store(1) as addresses, open_nodes(addresses) as good:
            await put_all(good)
            async with open_nodes([*addresses, odd], options, counters) as nodes:
                yield nodes, counters, asked
    finally:
        await server.stop(None)


async def stalls(request: pb.GetChunksRequest) -> AsyncIterator[pb.GetChunksResponse]:
    yield whole(0, request.chunks[0].object_key)
    begun = whole(1, request.chunks[1].object_key)
    begun.frame.data = begun.frame.data[:100]
    yield begun
    await asyncio.sleep(10 * DEADLINE)


async def test_a_node_that_stalls_in_mid_batch_costs_what_it_had_begun_to_send() -> None:
    async with beside(stalls) as (nodes, counters, asked):
        got = await read(nodes, REFS, deadline=8.0)
        ((_, begun, *_),) = asked
        assert got.pop(begun) == "deadline"
        assert got == {key: DATA[key] for key in KEYS if key != begun}, "all others came from the other node"
        assert counters.snapshot()["node_retries"] >= 1


async def refuses(request: pb.GetChunksRequest) -> AsyncIterator[pb.GetChunksResponse]:
    unavailable = grpc.StatusCode.UNAVAILABLE.value[0]
    for number, wanted in enumerate(request.chunks):
        if number % 2:
            yield whole(number, wanted.object_key)
        else:
            failure = pb.ChunkFailure(status_code=unavailable, message="its store is down", reason="unavailable")
            yield pb.GetChunksResponse(chunk=number, failure=failure)


async def test_objects_that_a_node_cannot_give_are_asked_of_the_next_in_one_call() -> None:
    async with beside(refuses) as (nodes, counters, asked):
        assert await read(nodes, REFS) == DATA
        assert len(asked) == 1
        assert len(asked[0]) > 4, "of which it does not give half"
        assert counters.snapshot()["node_retries"] == 1
        failures = {state.target: state.failures for state in await nodes.states(deadline=DEADLINE)}
        assert sorted(failures.values()) == [0, 1], "once for the batch"


async def loses(request: pb.GetChunksRequest) -> AsyncIterator[pb.GetChunksResponse]:
    loss = grpc.StatusCode.DATA_LOSS.value[0]
    for number, wanted in enumerate(request.chunks):
        if number:
            yield whole(number, wanted.object_key)
        else:
            failure = pb.ChunkFailure(status_code=loss, message="damaged", reason="checksum")
            yield pb.GetChunksResponse(chunk=number, failure=failure)


async def test_one_that_is_damaged_is_missed_alone_and_asked_of_nobody_else() -> None:
    async with beside(loses) as (nodes, counters, asked):
        got = await read(nodes, REFS)
        assert got.pop(asked[0][0]) == "checksum"
        assert got == {key: DATA[key] for key in KEYS if key != asked[0][0]}
        assert counters.snapshot()["node_retries"] == 0


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS])
async def test_a_node_that_breaks_off_keeps_what_came_and_only_an_unavailable_one_is_replaced(
    code: grpc.StatusCode,
) -> None:
    async def gone(request: pb.GetChunksRequest) -> AsyncIterator[pb.GetChunksResponse | grpc.StatusCode]:
        yield whole(0, request.chunks[0].object_key)
        yield code

    async with beside(gone) as (nodes, _, asked):
        got = await read(nodes, REFS)
        first, *others = asked[0]
        assert got[first] == DATA[first]
        lost = {key for key in KEYS if isinstance(got[key], str)}
        assert lost == (set() if code is grpc.StatusCode.UNAVAILABLE else set(others))
        assert all(got[key] == DATA[key] for key in KEYS if key not in lost)
