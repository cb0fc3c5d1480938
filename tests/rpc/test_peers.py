"""A node's client against peers that are not there, do not answer, answer nonsense, or come back."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace

import grpc
import pytest

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.catalog import ObjectInfo, ObjectMeta
from kvquilt_codec.errors import DeadlineError, IntegrityError, KvquiltError, UnavailableError
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1.common_pb2 import Frame
from kvquilt_rpc import convert
from kvquilt_rpc.node_batches import Wanted
from kvquilt_rpc.node_client import NodeClient
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.rpc.sessions import tcp_server

KEY, CONTAINER, META = make_object(make_chunk(), Level.HIGH)
CHUNK = META.chunk_key
SERVICE = "kvquilt.v1.CacheNodeService"
SHORT, LONG = 0.5, 20.0
HANGS = 20
"""Times the deadline: who is still waiting then does not keep it."""

Call = Callable[[NodeClient, float], Awaitable[object]]


async def get_all(client: NodeClient, deadline: float) -> list[object]:
    return [item async for item in client.get(KEY, FINGERPRINT, deadline=deadline)]


async def get_both(client: NodeClient, deadline: float) -> list[object]:
    wanted = [Wanted(KEY), Wanted(KEY)]
    return [item async for item in client.batches.get(wanted, FINGERPRINT, deadline=deadline)]


AUDITS = GateAudits("ab" * 32, FINGERPRINT, "cd" * 32)
CALLS: dict[str, Call] = {
    "put": lambda client, deadline: client.put(KEY, CONTAINER, META, deadline=deadline),
    "get": get_all,
    "get several": get_both,
    "stat": lambda client, deadline: client.stat([KEY], deadline=deadline),
    "find_variants": lambda client, deadline: client.find_variants([CHUNK], FINGERPRINT, CHUNK, deadline=deadline),
    "find_chunks": lambda client, deadline: client.find_chunks([bytes(16)], FINGERPRINT, deadline=deadline, limit=2),
    "put_gate": lambda client, deadline: client.gates.put(b"{}", deadline=deadline),
    "get_gate": lambda client, deadline: client.gates.get("cd" * 32, FINGERPRINT, deadline=deadline),
    "merge_audits": lambda client, deadline: client.audits.merge(AUDITS, deadline=deadline),
    "touch": lambda client, deadline: client.touch([KEY], [], deadline=deadline),
    "forget": lambda client, deadline: client.forget(keys=[KEY], deadline=deadline),
    "status": lambda client, deadline: client.status(deadline=deadline),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


@asynccontextmanager
async def client_of(target: str) -> AsyncIterator[NodeClient]:
    client = NodeClient(target)
    try:
        yield client
    finally:
        await client.close()


async def failure(call: Call, target: str, deadline: float) -> KvquiltError:
    """The error that a call ends with, and it does end."""
    async with client_of(target) as client:
        with pytest.raises(KvquiltError) as caught:
            await asyncio.wait_for(call(client, deadline), HANGS * deadline)
    return caught.value


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@every_call
async def test_a_port_that_nobody_listens_on(call: Call) -> None:
    error = await failure(call, f"127.0.0.1:{free_port()}", LONG)
    assert type(error) is UnavailableError
    assert error.reason == "unavailable"


async def test_a_name_that_does_not_exist() -> None:
    error = await failure(CALLS["status"], "no-such-host.invalid:7411", SHORT)
    assert isinstance(error, UnavailableError | DeadlineError)


async def test_a_server_that_accepts_and_never_answers() -> None:
    async def silence(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 16):
            pass

    async with tcp_server(silence) as target:
        failures = await asyncio.gather(*(failure(call, target, SHORT) for call in CALLS.values()))
    assert {type(error) for error in failures} <= {DeadlineError, UnavailableError}


@every_call
@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"\x00" * 64, b"\xff" * 4096, b"220 mail ready\r\n"],
    ids=["http 1", "zeros", "ones", "mail"],
)
async def test_a_server_that_answers_garbage(call: Call, garbage: bytes) -> None:
    async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(garbage)
        await writer.drain()

    async with tcp_server(nonsense) as target:
        error = await failure(call, target, LONG)
    assert type(error) is UnavailableError


async def test_a_server_that_hangs_up_at_once() -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    async with tcp_server(hang_up) as target:
        assert type(await failure(CALLS["stat"], target, LONG)) is UnavailableError


# Peers that speak gRPC, but no cache node's part of it


@asynccontextmanager
async def odd_node(answers: list[bytes], after: float = 0) -> AsyncIterator[str]:
    """Answers every call with these bytes; a unary call with the first of them."""

    async def unary(request: bytes, context: object) -> bytes:
        await asyncio.sleep(after)
        return answers[0]

    async def put(requests: AsyncIterator[bytes], context: object) -> bytes:
        async for _ in requests:
            pass
        return await unary(b"", context)

    async def stream(request: bytes, context: object) -> AsyncIterator[bytes]:
        await asyncio.sleep(after)
        for answer in answers:
            yield answer

    methods = {
        name: grpc.unary_unary_rpc_method_handler(unary)
        for name in ("StatChunks", "TouchChunks", "ForgetChunks", "GetNodeStatus", "MergeAudits")
    }
    for name in ("PutChunk", "PutGate"):
        methods[name] = grpc.stream_unary_rpc_method_handler(put)
    for name in ("GetChunk", "GetChunks", "FindVariants", "FindChunks", "GetGate", "GetProfile"):
        methods[name] = grpc.unary_stream_rpc_method_handler(stream)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def test_a_node_that_takes_the_call_and_never_answers() -> None:
    async with odd_node([b""], after=HANGS * LONG) as target:
        failures = await asyncio.gather(*(failure(call, target, SHORT) for call in CALLS.values()))
    assert [type(error) for error in failures] == [DeadlineError] * len(CALLS)


@every_call
async def test_an_answer_that_is_no_message(call: Call) -> None:
    async with odd_node([b"\xff\xff\xff"]) as target:
        error = await failure(call, target, LONG)
    assert type(error) is IntegrityError
    assert "well-formed" in str(error)


def header(size: int) -> bytes:
    return pb.GetChunkResponse(header=pb.GetChunkHeader(payload_bytes=size)).SerializeToString()


def frame(offset: int, data: bytes) -> bytes:
    return pb.GetChunkResponse(frame=Frame(offset=offset, data=data)).SerializeToString()


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([], "stream was empty"),
        ([frame(0, b"abc")], "header first"),
        ([b""], "header first"),
        ([header(3)], "ended after 0"),
        ([header(3), frame(0, b"ab")], "ended after 2"),
        ([header(3), frame(0, b"abcd")], "got more"),
        ([header(3), frame(0, b"ab"), frame(1, b"c")], "offset 2; got 1"),
        ([header(3), frame(0, b"ab"), header(3)], "offset 2; got 0"),
        ([header(3), b""], "a frame of 1"),
        ([header(3), frame(0, b"ab"), b"\xff"], "well-formed"),
    ],
)
async def test_a_stream_that_is_no_object(answers: list[bytes], message: str) -> None:
    async with odd_node(answers) as target:
        error = await failure(CALLS["get"], target, LONG)
    assert type(error) is IntegrityError
    assert message in str(error)


def matched(*matches: pb.ChunkMatch) -> bytes:
    return pb.FindChunksResponse(matches=matches).SerializeToString()


def found(*metas: ObjectMeta) -> bytes:
    infos = [convert.info_to_wire(ObjectInfo(KEY, meta, 1, 1.0, 1.0, 0)) for meta in metas]
    return pb.FindVariantsResponse(objects=infos).SerializeToString()


MATCH = pb.ChunkMatch(chunk_key=CHUNK, offset=3, token_count=5)


@pytest.mark.parametrize(
    ("call", "answers", "message"),
    [
        ("find_chunks", [matched(pb.ChunkMatch(fingerprint=1, chunk_key=CHUNK, token_count=5))], "what was asked"),
        ("find_chunks", [matched(MATCH, MATCH), matched(MATCH)], "what was asked"),
        ("find_chunks", [matched(pb.ChunkMatch(chunk_key=CHUNK, offset=5, token_count=5))], "within a chunk"),
        ("find_variants", [found(replace(META, chunk_key=bytes(32)))], "what was asked"),
        ("find_variants", [found(META)] * 17, "what was asked"),
        ("find_variants", [pb.FindVariantsResponse(objects=[pb.ObjectInfo()]).SerializeToString()], "well-formed"),
        ("stat", [pb.StatChunksResponse(objects=[pb.ObjectInfo()]).SerializeToString()], "well-formed"),
    ],
)
async def test_an_answer_to_another_question(call: str, answers: list[bytes], message: str) -> None:
    async with odd_node(answers) as target:
        error = await failure(CALLS[call], target, LONG)
    assert type(error) is IntegrityError, "no fault of a node is one of the request"
    assert message in str(error)


async def test_a_server_without_the_service() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    error = await failure(CALLS["status"], f"127.0.0.1:{port}", LONG)
    assert type(error) is KvquiltError, "of no special kind: not of a model, for instance"
    await server.stop(0)


# Peers that come back


async def test_a_node_that_is_started_again_is_found_by_the_same_client() -> None:
    settings = NodeSettings(port=0, store="memory", drain_seconds=0)
    async with running_node(settings) as address:
        client = NodeClient(address)
        assert await client.put(KEY, CONTAINER, META, deadline=LONG) is True
        assert (await client.status(deadline=LONG)).objects == 1
    for call in CALLS.values():
        with pytest.raises(UnavailableError):
            await call(client, LONG)
    again = settings.model_copy(update={"port": int(address.rpartition(":")[2])})
    async with running_node(again) as same_address, asyncio.timeout(HANGS * LONG):
        assert same_address == address
        while True:
            try:
                status = await client.status(deadline=LONG)
                break
            except UnavailableError:
                await asyncio.sleep(0.05)  # the client may still be waiting to dial again
        assert status.objects == 0, "another process would have a memory of its own too"
        assert await client.put(KEY, CONTAINER, META, deadline=LONG) is True
    await client.close()
