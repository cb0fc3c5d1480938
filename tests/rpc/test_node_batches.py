"""Messages of batches in their wire form, and streams that are not what they should be."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import grpc
import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import CapacityError, IntegrityError, KvquiltError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1.common_pb2 import Frame
from kvquilt_rpc.framing import Packing
from kvquilt_rpc.node_batches import FRAMING, METHOD, Wanted, parsed
from kvquilt_rpc.node_client import SERVICE_NAME, NodeClient

numbers = st.sampled_from([0, 1, 127, 128, 255, 2**32 - 1])
DEADLINE = 20.0


@st.composite
def messages(draw: st.DrawFn) -> pb.GetChunksResponse:
    made = pb.GetChunksResponse(chunk=draw(numbers))
    if draw(st.booleans()):
        made.header.payload_bytes = draw(numbers)
    if draw(st.booleans()):
        made.failure.message = draw(st.text(max_size=5))
    if draw(st.booleans()):
        made.frame.CopyFrom(Frame(offset=draw(numbers), data=draw(st.binary(max_size=300))))
    return made


@st.composite
def altered(draw: st.DrawFn) -> bytes:
    """Bytes of a message, or of two, or with some that were changed, put in or taken away."""
    one, other = (draw(messages()).SerializeToString() for _ in range(2))
    content = bytearray(draw(st.sampled_from([one, one + other])))
    place, cut = draw(st.integers(0, min(24, len(content)))), draw(st.integers(0, 3))
    content[place : place + cut] = draw(st.binary(max_size=3))
    return bytes(content)


@settings(deadline=None, max_examples=300)
@given(content=altered() | messages().map(lambda made: made.SerializeToString()) | st.binary(max_size=40))
@example(content=b"")
@example(content=b"\x12\xff\xff\xff\xff\xff\xff\xff\x7f\x22\x00")
def test_any_bytes_are_read_as_protobuf_reads_them(content: bytes) -> None:
    try:
        expected = pb.GetChunksResponse.FromString(content)
    except DecodeError:
        with pytest.raises(DecodeError):
            parsed(content)
        return
    read = parsed(content)
    assert read.chunk == expected.chunk
    assert (read.header or pb.GetChunkHeader()) == expected.header
    assert (read.failure or pb.ChunkFailure()) == expected.failure
    assert (read.frame is None) or (read.frame.offset, read.frame.data) == (expected.frame.offset, expected.frame.data)
    assert (read.frame is not None) == expected.HasField("frame")


@given(chunk=numbers, header=numbers, pieces=st.lists(st.binary(min_size=1, max_size=300), min_size=1, max_size=3))
def test_what_is_packed_is_what_protobuf_writes(chunk: int, header: int, pieces: list[bytes]) -> None:
    first = pb.GetChunksResponse(header=pb.GetChunkHeader(payload_bytes=header))
    packing = Packing(FRAMING, first.SerializeToString(), pb.GetChunksResponse(chunk=chunk).SerializeToString())
    (message,) = [*packing.take(pieces), *packing.finish()]
    frame = Frame(data=b"".join(pieces))
    assert message == pb.GetChunksResponse(chunk=chunk, header=first.header, frame=frame).SerializeToString()


# What a node may not send

KEYS = [Wanted(bytes([number]) * 32) for number in range(3)]


def part(chunk: int, header: int | None = None, data: bytes = b"", offset: int = 0) -> pb.GetChunksResponse:
    made = pb.GetChunksResponse(chunk=chunk)
    if header is not None:
        made.header.payload_bytes = header
    if data:
        made.frame.CopyFrom(Frame(offset=offset, data=data))
    return made


@asynccontextmanager
async def answering(answers: Sequence[pb.GetChunksResponse | bytes]) -> AsyncIterator[NodeClient]:
    async def answer(request: bytes, context: object) -> AsyncIterator[bytes]:
        for one in answers:
            yield one if isinstance(one, bytes) else one.SerializeToString()

    server = grpc.aio.server()
    handlers = {METHOD: grpc.unary_stream_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = NodeClient(f"127.0.0.1:{port}")
    try:
        yield client
    finally:
        await client.close()
        await server.stop(None)


async def came(client: NodeClient) -> list[tuple[int, object]]:
    return [item async for item in client.batches.get(KEYS, "f" * 64, deadline=DEADLINE)]


BAD = {
    "another chunk": [part(3, 1, b"a")],
    "a chunk twice": [part(0, 1, b"a"), part(0, 1, b"a")],
    "two headers": [part(0, 2), part(0, 2)],
    "a frame without header": [part(0, None, b"a")],
    "nothing": [part(0)],
    "a frame elsewhere": [part(0, 3, b"a", 1)],
    "more than was said": [part(0, 1, b"ab")],
    "less than was said": [part(0, 3, b"a"), part(1, 1, b"b"), part(2, 1, b"c")],
    "too few": [part(0, 1, b"a"), part(2, 1, b"c")],
    "no message": [b"\xff\xff"],
}


@pytest.mark.parametrize("name", BAD)
async def test_a_stream_that_is_none_is_refused(name: str) -> None:
    async with answering(BAD[name]) as client:
        with pytest.raises(IntegrityError):
            await came(client)


async def test_chunks_come_by_turns_and_one_that_fails_says_why_beside_the_others() -> None:
    code = grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
    failure = pb.ChunkFailure(status_code=code, message="no room", reason="over_cap")
    failed = pb.GetChunksResponse(chunk=1, failure=failure)
    async with answering([part(2, 2, b"x"), part(1, 5, b"a"), part(0, 1, b"y"), failed, part(2, None, b"z", 1)]) as own:
        got = await came(own)
    pieces = {number: [piece for place, piece in got if place == number] for number in range(3)}
    assert [pieces[number][1:] for number in (0, 2)] == [[b"y", None], [b"x", b"z", None]]
    error = pieces[1][-1]
    assert isinstance(error, CapacityError)
    assert (str(error), error.reason) == ("no room", "over_cap")
    assert not any(isinstance(piece, KvquiltError) for number in (0, 2) for piece in pieces[number])
