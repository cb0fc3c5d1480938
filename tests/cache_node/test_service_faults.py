"""Requests about stored objects that cannot be, bytes that are no requests, damage on disk, clients that go away."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from kvquilt_codec.traces import ChunkPlace
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from tests.cache_node import calls
from tests.cache_node.calls import CHUNK, CONTAINER, DEADLINE, KEY, META, SERVICE, Node, answer
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT

BAD = (StatusCode.INVALID_ARGUMENT, "bad_request")
LAYERS = len(CHUNK.layout.layers)


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    """A node that holds one object."""
    async with calls.serving() as running:
        await running.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        yield running


@pytest.fixture
async def file_node(tmp_path: Path) -> AsyncIterator[Node]:
    async with calls.serving("file", tmp_path) as running:
        await running.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        yield running


async def got(node: Node, *, decoded: bool = False, fingerprint: str = FINGERPRINT) -> bytes:
    request = pb.GetChunkRequest(object_key=KEY, model_fingerprint=fingerprint, decoded=decoded)
    return b"".join([response.frame.data async for response in node.stub.GetChunk(request, timeout=DEADLINE)])


async def called(node: Node, method: str, request: Message) -> None:
    """Call and read the whole answer."""
    call = getattr(node.stub, method)(request, timeout=DEADLINE)
    if method == "GetChunk":
        async for _ in call:
            pass
    else:
        await call


def get(key: bytes = KEY, begin: int | None = None, end: int = 0, fingerprint: str = FINGERPRINT) -> pb.GetChunkRequest:
    layers = None if begin is None else common_pb2.LayerRange(begin=begin, end=end)
    return pb.GetChunkRequest(object_key=key, model_fingerprint=fingerprint, layers=layers)


MANY = [number.to_bytes(32, "big") for number in range(5000)]
NOT_FOUND = (StatusCode.NOT_FOUND, "not_found")
OTHER_MODEL = (StatusCode.FAILED_PRECONDITION, "fingerprint_mismatch")

REQUESTS: dict[str, tuple[str, Message, tuple[StatusCode, str], str]] = {
    "get without key": ("GetChunk", get(b""), BAD, "32 bytes; got 0"),
    "get with a long key": ("GetChunk", get(bytes(33)), BAD, "32 bytes; got 33"),
    "get what is not there": ("GetChunk", get(bytes(32)), NOT_FOUND, "not there"),
    "get for another model": (
        "GetChunk",
        get(fingerprint=OTHER_FINGERPRINT),
        OTHER_MODEL,
        "compute it with this model",
    ),
    "get for no model": ("GetChunk", get(fingerprint=""), OTHER_MODEL, "compute it with this model"),
    "no layers": ("GetChunk", get(begin=1, end=1), BAD, "at least one layer"),
    "no layers at 0": ("GetChunk", get(begin=0, end=0), BAD, "at least one layer"),
    "layers backwards": ("GetChunk", get(begin=2, end=1), BAD, "at least one layer"),
    "a layer too many": ("GetChunk", get(begin=0, end=LAYERS + 1), BAD, f"layers within 0..{LAYERS}"),
    "layers beyond": ("GetChunk", get(begin=LAYERS, end=LAYERS + 1), BAD, f"layers within 0..{LAYERS}"),
    "layers far beyond": ("GetChunk", get(begin=0, end=2**32 - 1), BAD, f"layers within 0..{LAYERS}"),
    "stat a short key": ("StatChunks", pb.StatChunksRequest(object_keys=[KEY, b"short"]), BAD, "32 bytes; got 5"),
    "stat too many": ("StatChunks", pb.StatChunksRequest(object_keys=MANY), BAD, "at most 4096 keys; got 5000"),
    "touch a short key": ("TouchChunks", pb.TouchChunksRequest(object_keys=[b""]), BAD, "32 bytes; got 0"),
    "touch too many": ("TouchChunks", pb.TouchChunksRequest(object_keys=MANY), BAD, "at most 4096 keys"),
    "touch for nobody": ("TouchChunks", pb.TouchChunksRequest(object_keys=[KEY], document_ids=[""]), BAD, "1..1024"),
    "touch for a bell": (
        "TouchChunks",
        pb.TouchChunksRequest(object_keys=[KEY], document_ids=["\a"]),
        BAD,
        "printable",
    ),
    "touch for too many": (
        "TouchChunks",
        pb.TouchChunksRequest(object_keys=[KEY], document_ids=map(str, range(4097))),
        BAD,
        "at most 4096 document ids; got 4097",
    ),
    "forget a long key": ("ForgetChunks", pb.ForgetChunksRequest(object_keys=[KEY, KEY + KEY]), BAD, "got 64"),
    "forget too many": ("ForgetChunks", pb.ForgetChunksRequest(object_keys=[KEY, *MANY]), BAD, "at most 4096 keys"),
    "forget nobody's": ("ForgetChunks", pb.ForgetChunksRequest(object_keys=[KEY], document_ids=[""]), BAD, "1..1024"),
    "forget a long document": ("ForgetChunks", pb.ForgetChunksRequest(document_ids=["x" * 1025]), BAD, "1..1024"),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_that_cannot_be_or_finds_nothing(node: Node, name: str) -> None:
    method, request, expected, message = REQUESTS[name]
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await called(node, method, request)
    assert answer(caught.value) == expected
    info = (await node.client.stat([KEY], deadline=DEADLINE))[KEY]
    assert method == "GetChunk" or info.use_count == 0, "nothing was touched or forgotten"
    assert await got(node) == CONTAINER
    receipt = await node.client.forget(documents=META.document_ids, deadline=DEADLINE)
    assert receipt.deleted == (KEY,), "nobody else holds it"


# Bytes that are no requests


@pytest.mark.parametrize("method", ["GetChunk", "StatChunks", "TouchChunks", "ForgetChunks"])
async def test_bytes_that_are_no_message(node: Node, method: str) -> None:
    kind = node.channel.unary_stream if method == "GetChunk" else node.channel.unary_unary
    call = kind(f"/{SERVICE}/{method}")(b"\xff\xff\xff", timeout=DEADLINE)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (anext(aiter(call)) if method == "GetChunk" else call)
    assert answer(caught.value) == (StatusCode.INVALID_ARGUMENT, "bad_request")
    assert await got(node) == CONTAINER


@pytest.mark.parametrize("before", [0, 1, 2])
async def test_bytes_that_are_no_message_in_a_put(node: Node, before: int) -> None:
    await node.client.forget(keys=[KEY], deadline=DEADLINE)
    sound = [request.SerializeToString() for request in calls.put_requests(calls.container_header(), CONTAINER, 20_000)]
    call = node.channel.stream_unary(f"/{SERVICE}/PutChunk")
    with pytest.raises(grpc.aio.AioRpcError, match="well-formed") as caught:
        await call(iter([*sound[:before], b"\xff\xff\xff"]), timeout=DEADLINE)
    assert answer(caught.value) == BAD
    assert await node.used() == (0, 0)


@pytest.mark.parametrize("path", [f"/{SERVICE}/DeleteEverything", "/kvquilt.v1.NoService/StatChunks"])
async def test_a_call_that_the_node_does_not_know(node: Node, path: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await node.channel.unary_unary(path)(b"", timeout=DEADLINE)
    assert caught.value.code() is StatusCode.UNIMPLEMENTED
    assert await got(node) == CONTAINER


async def test_a_call_of_another_kind_than_the_method(node: Node) -> None:
    put = node.channel.unary_unary(f"/{SERVICE}/PutChunk", pb.PutChunkRequest.SerializeToString)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await put(pb.PutChunkRequest(header=calls.container_header()), timeout=DEADLINE)
    assert answer(caught.value) == (StatusCode.DATA_LOSS, "integrity"), "a stream of one message: no frame came"
    assert await got(node) == CONTAINER


# Damage on disk


def flip(data: bytes, place: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


IN_PAYLOAD = len(CONTAINER) // 2
DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "nothing left": lambda data: b"",
    "cut in the prefix": lambda data: data[:20],
    "cut in the head": lambda data: data[:200],
    "cut in the payload": lambda data: data[:-1],
    "flipped magic": lambda data: flip(data, 0),
    "flipped header": lambda data: flip(data, 100),
    "flipped payload": lambda data: flip(data, IN_PAYLOAD),
}


@pytest.mark.parametrize("decoded", [True, False], ids=["decoded", "encoded"])
@pytest.mark.parametrize("name", DAMAGE)
async def test_a_damaged_object_is_reported_counted_dropped_and_stored_again(
    file_node: Node, tmp_path: Path, name: str, decoded: bool
) -> None:
    (path,) = (tmp_path / "blobs").glob("??/*.kvq")
    path.write_bytes(DAMAGE[name](CONTAINER))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await got(file_node, decoded=decoded)
    code, reason = answer(caught.value)
    assert code is StatusCode.DATA_LOSS
    assert reason in ("integrity", "checksum")
    assert (await file_node.counters())["objects_damaged"] == 1
    assert (await file_node.counters())["gets"] == 0
    assert await file_node.client.stat([KEY], deadline=DEADLINE) == {}
    assert await file_node.used() == (0, 0)
    assert not path.exists()
    place = ChunkPlace(META.chunk_key, META.prefix_digest)
    (departed,) = (await file_node.client.traces.trace([place], deadline=DEADLINE)).departed.values()
    assert departed.reason == "damaged"
    assert await file_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    assert await got(file_node) == CONTAINER


async def test_a_file_that_is_gone_is_not_found_and_can_be_stored_again(file_node: Node, tmp_path: Path) -> None:
    (path,) = (tmp_path / "blobs").glob("??/*.kvq")
    path.unlink()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await got(file_node)
    assert answer(caught.value) == NOT_FOUND
    assert (await file_node.counters())["objects_damaged"] == 0
    assert await file_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    assert await got(file_node) == CONTAINER


# Clients that go away


@pytest.mark.parametrize("sent", [0, 1, 2, 3])
async def test_a_client_that_disappears_in_the_middle_of_a_put_leaves_nothing(
    file_node: Node, tmp_path: Path, sent: int
) -> None:
    await file_node.client.forget(keys=[KEY], deadline=DEADLINE)
    requests = list(calls.put_requests(calls.container_header(), CONTAINER, step=-(-len(CONTAINER) // 3)))
    async with grpc.aio.insecure_channel(file_node.address) as channel:
        put = channel.stream_unary(f"/{SERVICE}/PutChunk", pb.PutChunkRequest.SerializeToString)(timeout=DEADLINE)
        for request in requests[:sent]:
            await put.write(request)
        await file_node.client.status(deadline=DEADLINE)
    assert put.cancelled(), "the channel is closed, and the connection with it"
    assert await file_node.used() == (0, 0)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert await file_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    assert await got(file_node) == CONTAINER


async def test_a_put_that_is_cancelled_at_any_point_is_whole_or_nothing(file_node: Node, tmp_path: Path) -> None:
    for moment in range(20):
        await file_node.client.forget(keys=[KEY], deadline=DEADLINE)
        put = asyncio.create_task(file_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE))
        await asyncio.wait([put], timeout=moment * 0.0005)
        put.cancel()
        await asyncio.gather(put, return_exceptions=True)
        objects, used = await file_node.used()
        assert (objects, used) in {(0, 0), (0, len(CONTAINER)), (1, len(CONTAINER))}, "nothing, under way, or whole"
        await file_node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        assert await file_node.used() == (1, len(CONTAINER))
        assert await got(file_node) == CONTAINER
    assert list((tmp_path / "tmp").iterdir()) == []
