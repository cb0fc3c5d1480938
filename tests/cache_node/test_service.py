"""A running node, called over the network: what is put comes back, and the node tells what it did."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.types import COUNTERS
from kvquilt_codec import container
from kvquilt_codec.errors import CapacityError, FingerprintMismatchError, NotFoundError, UnavailableError
from kvquilt_codec.types import DataType, KVChunk, Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc import convert
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.version import VERSION
from tests.cache_node import calls
from tests.cache_node.calls import CHUNK, CONTAINER, DEADLINE, KEY, META, Node, raw_bytes, serving
from tests.codec.samples import (
    FINGERPRINT,
    OTHER_FINGERPRINT,
    STORED,
    UNEVEN,
    make_chunk,
    make_object,
)

levels = pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)


@pytest.fixture
async def memory_node() -> AsyncIterator[Node]:
    async with serving() as running:
        yield running


async def put_tensors(node: Node, chunk: KVChunk, level: Level) -> tuple[bytes, bool]:
    key, _, meta = make_object(chunk, level, "a document")
    return key, await node.client.put_tensors(key, chunk, meta, deadline=DEADLINE)


async def got(
    node: Node, key: bytes, layers: range | None = None, *, decoded: bool = False
) -> tuple[pb.GetChunkHeader, bytes]:
    items = [
        item async for item in node.client.get(key, FINGERPRINT, deadline=DEADLINE, layers=layers, decoded=decoded)
    ]
    header = items[0]
    assert isinstance(header, pb.GetChunkHeader)
    payload = b"".join(item for item in items[1:] if isinstance(item, bytes))
    assert len(payload) == header.payload_bytes
    return header, payload


# Putting and getting


@levels
@pytest.mark.parametrize("rotated_from", [None, 0, 4711])
async def test_tensors_and_container_give_the_same_object(node: Node, level: Level, rotated_from: int | None) -> None:
    chunk = make_chunk(300, UNEVEN, DataType.FLOAT16, rotated_from=rotated_from)
    key, data, meta = make_object(chunk, level, "a document")
    assert await put_tensors(node, chunk, level) == (key, True)
    assert (await got(node, key))[1] == data
    await node.client.forget(keys=[key], deadline=DEADLINE)
    assert await node.client.put(key, data, meta, deadline=DEADLINE) is True
    header, payload = await got(node, key)
    assert payload == data
    assert (header.container_bytes, header.token_count) == (len(data), 300)
    assert (header.rotated_from if header.HasField("rotated_from") else None) == rotated_from
    assert not header.HasField("layout")


@levels
@pytest.mark.parametrize("layers", [None, range(4), range(1), range(1, 3), range(3, 4)], ids=str)
async def test_a_decoded_get_gives_the_tensors_of_the_layers(node: Node, level: Level, layers: range | None) -> None:
    key, _ = await put_tensors(node, make_chunk(300, UNEVEN), level)
    _, data = await got(node, key)
    expected = container.decode(data, FINGERPRINT).chunk()
    header, payload = await got(node, key, layers, decoded=True)
    assert payload == raw_bytes(expected, layers)
    if level is Level.LOSSLESS:
        assert payload == raw_bytes(make_chunk(300, UNEVEN), layers)
    assert convert.layout_from_wire(header.layout).layers == (
        UNEVEN if layers is None else UNEVEN[layers.start : layers.stop]
    )


@levels
async def test_an_encoded_layer_range_is_the_head_and_the_sections_of_the_range(node: Node, level: Level) -> None:
    key, _ = await put_tensors(node, make_chunk(300, UNEVEN), level)
    _, data = await got(node, key)
    header, payload = await got(node, key, range(1, 3))
    assert len(payload) < len(data) == header.container_bytes
    decoder = container.ContainerDecoder(FINGERPRINT, range(1, 3))
    decoder.feed(payload)
    assert decoder.finish().layers == range(1, 3)


async def test_an_object_of_many_frames_comes_back(memory_node: Node) -> None:
    chunk = make_chunk(4096, UNEVEN * 8)
    key, _ = await put_tensors(memory_node, chunk, Level.LOSSLESS)
    assert (await got(memory_node, key, decoded=True))[1] == raw_bytes(chunk)


async def test_frames_of_a_put_may_be_of_any_size(memory_node: Node) -> None:
    response = await memory_node.put_raw(calls.put_requests(calls.container_header(), CONTAINER, step=777))
    assert (response.stored, response.stored_bytes) == (True, len(CONTAINER))
    assert (await got(memory_node, KEY))[1] == CONTAINER


async def test_a_second_put_is_told_apart_and_adds_its_documents(node: Node) -> None:
    assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    _, other, meta = make_object(CHUNK, Level.HIGH, "another document")
    response = await node.put_raw(calls.put_requests(calls.container_header(KEY, meta, len(other)), other))
    assert (response.stored, response.stored_bytes) == (False, 0)
    assert (await got(node, KEY))[1] == CONTAINER
    assert (await node.client.forget(documents=["a document"], deadline=DEADLINE)).kept_shared == 1
    assert (await node.client.forget(documents=["another document"], deadline=DEADLINE)).deleted == (KEY,)


async def test_of_clients_that_put_the_same_at_once_one_stores(node: Node) -> None:
    stored = await asyncio.gather(*(put_tensors(node, CHUNK, Level.LOSSLESS) for _ in range(4)))
    assert sorted(one for _, one in stored) == [False, False, False, True]
    assert (await node.used())[0] == 1


# Looking, touching, forgetting


async def test_stat_touch_and_forget(node: Node) -> None:
    absent = bytes(32)
    await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    before = (await node.client.stat([KEY, absent], deadline=DEADLINE))[KEY]
    said = replace(META, document_ids=(), fingerprints=b"")
    assert (before.meta, before.stored_bytes, before.use_count) == (said, len(CONTAINER), 0)
    assert await node.client.touch([absent, KEY], ["second"], deadline=DEADLINE) == {KEY}
    await got(node, KEY)
    found = await node.client.stat([KEY, absent], deadline=DEADLINE)
    assert set(found) == {KEY}
    assert found[KEY].use_count == 2, "a touch and a get"
    assert found[KEY].last_used >= before.last_used == before.created
    receipt = await node.client.forget(documents=["a document"], deadline=DEADLINE)
    assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((), 0, 1)
    receipt = await node.client.forget(keys=[absent], documents=["second"], deadline=DEADLINE)
    assert (receipt.deleted, receipt.deleted_bytes, receipt.kept_shared) == ((KEY,), len(CONTAINER), 0)
    with pytest.raises(NotFoundError):
        await got(node, KEY)
    assert await node.used() == (0, 0)


async def test_an_object_that_thousands_of_documents_hold_can_still_be_looked_up(memory_node: Node) -> None:
    await memory_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    for batch in range(10):
        names = [f"doc {batch} {n} ".ljust(1000, "x") for n in range(1000)]
        await memory_node.client.touch([KEY], names, deadline=DEADLINE)
    assert set(await memory_node.client.stat([KEY], deadline=DEADLINE)) == {KEY}, "10 MB of ids fit no message"


async def test_more_keys_than_one_request_takes_are_looked_up_in_several(memory_node: Node) -> None:
    await memory_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    absent = [number.to_bytes(32, "big") for number in range(5000)]
    assert set(await memory_node.client.stat([*absent, KEY], deadline=DEADLINE)) == {KEY}


async def test_kv_of_another_model_is_refused(node: Node) -> None:
    await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    for fingerprint in (OTHER_FINGERPRINT, "", "no fingerprint at all"):
        with pytest.raises(FingerprintMismatchError):
            async for _ in node.client.get(KEY, fingerprint, deadline=DEADLINE):
                pass
    assert (await got(node, KEY))[1] == CONTAINER


async def test_an_object_larger_than_the_cap_is_refused_over_the_wire() -> None:
    async with serving(capacity=len(CONTAINER) - 1) as node:
        with pytest.raises(CapacityError, match="under the cap") as caught:
            await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        assert caught.value.reason == "over_cap"
        assert await node.used() == (0, 0)


# Status and counters


async def test_status_tells_what_the_node_is_and_holds(node: Node) -> None:
    status = await node.client.status(deadline=DEADLINE)
    assert (status.version, status.capacity_bytes, status.objects) == (VERSION, calls.CAPACITY, 0)
    assert status.store in ("memory", "file")
    assert status.kernels in ("native", "reference")
    assert dict(status.counters) == dict.fromkeys(COUNTERS, 0)
    await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    assert await node.used() == (1, len(CONTAINER))


async def test_each_counter_moves_when_it_should_and_no_other(memory_node: Node) -> None:
    expected = dict.fromkeys(COUNTERS, 0)
    steps = [
        (memory_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE), {"puts_stored": 1}),
        (memory_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE), {"puts_present": 1}),
        (got(memory_node, KEY), {"gets": 1, "bytes_sent": len(CONTAINER)}),
        (got(memory_node, KEY, decoded=True), {"gets": 1, "bytes_sent": len(raw_bytes(CHUNK))}),
        (memory_node.client.stat([KEY], deadline=DEADLINE), {"lookups": 1}),
        (memory_node.client.touch([KEY], ["x"], deadline=DEADLINE), {}),
        (memory_node.client.forget(keys=[KEY, bytes(32)], deadline=DEADLINE), {"objects_forgotten": 1}),
        (memory_node.client.forget(keys=[KEY], deadline=DEADLINE), {}),
    ]
    for step, changes in steps:
        await step
        for name, amount in changes.items():
            expected[name] += amount
        assert await memory_node.counters() == expected
    with pytest.raises(NotFoundError):
        await got(memory_node, KEY)
    assert await memory_node.counters() == expected, "a miss is no get"


# Health, reflection, the end


async def test_health_and_reflection_name_the_service(memory_node: Node) -> None:
    stub = health_pb2_grpc.HealthStub(memory_node.channel)
    for service in ("", calls.SERVICE):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=DEADLINE)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    reflect = reflection_pb2_grpc.ServerReflectionStub(memory_node.channel)
    (listed,) = [item async for item in reflect.ServerReflectionInfo(iter([request]), timeout=DEADLINE)]
    assert calls.SERVICE in {service.name for service in listed.list_services_response.service}


async def test_a_node_that_ends_says_so_and_lets_a_running_put_finish(tmp_path: Path) -> None:
    settings = NodeSettings(port=0, path=tmp_path, fsync=False, drain_seconds=DEADLINE)
    started: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    ending = asyncio.Event()

    async def run() -> None:
        async with running_node(settings) as address:
            started.set_result(address)
            await ending.wait()

    running = asyncio.create_task(run())
    address = await started
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=calls.SERVICE))
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        half, rest = list(calls.put_requests(calls.container_header(), CONTAINER, step=-(-len(CONTAINER) // 2)))[1:]
        stub = cache_node_pb2_grpc.CacheNodeServiceStub(channel)
        put = stub.PutChunk(timeout=DEADLINE)
        await put.write(pb.PutChunkRequest(header=calls.container_header()))
        await put.write(half)
        await stub.GetNodeStatus(pb.GetNodeStatusRequest(), timeout=DEADLINE)  # calls begin in order: the put has
        ending.set()
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        await put.write(rest)
        await put.done_writing()
        assert (await put).stored is True
        await running
    client = NodeClient(address)
    with pytest.raises(UnavailableError):
        await client.status(deadline=DEADLINE)
    await client.close()
    async with serving("file", tmp_path) as node:
        assert (await got(node, KEY))[1] == CONTAINER
