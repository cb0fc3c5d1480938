"""What a node refuses: each malformed put gets its status and reason, leaves nothing, and the next one is served."""

from collections.abc import AsyncIterator, Callable, Iterable

import grpc
import pytest
from grpc import StatusCode

from kvquilt_codec.types import DataType, Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from kvquilt_rpc.frames import FRAME_BYTES
from tests.cache_node import calls
from tests.cache_node.calls import CHUNK, CONTAINER, DEADLINE, KEY, META, Node, answer, frame, raw_bytes
from tests.codec.samples import FINGERPRINT, STORED, make_chunk
from tests.hostile.draft import Draft

BAD = (StatusCode.INVALID_ARGUMENT, "bad_request")
DAMAGED = (StatusCode.DATA_LOSS, "integrity")

Change = Callable[[pb.PutChunkHeader], object]
Put = Iterable[pb.PutChunkRequest]


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with calls.serving() as running:
        yield running


async def assert_untouched(node: Node) -> None:
    """The node holds nothing and serves the next request."""
    assert await node.used() == (0, 0)
    assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    assert await node.used() == (1, len(CONTAINER))


async def assert_refused(node: Node, requests: Put, expected: tuple[StatusCode, str], message: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        await node.put_raw(requests)
    assert answer(caught.value) == expected
    await assert_untouched(node)


# Streams that are no header and its frames

HEADER = pb.PutChunkRequest(header=calls.container_header())
HALF = len(CONTAINER) // 2
FIRST, SECOND = frame(0, CONTAINER[:HALF]), frame(HALF, CONTAINER[HALF:])


def declaring(size: int) -> pb.PutChunkRequest:
    return pb.PutChunkRequest(header=calls.container_header(size=size))


STREAMS: dict[str, tuple[list[pb.PutChunkRequest], tuple[StatusCode, str], str]] = {
    "nothing": ([], BAD, "header first"),
    "an empty message": ([pb.PutChunkRequest()], BAD, "header first"),
    "frame first": ([FIRST, HEADER, SECOND], BAD, "header first"),
    "two headers": ([HEADER, HEADER, FIRST, SECOND], BAD, "frames after the header"),
    "header in the middle": ([HEADER, FIRST, HEADER, SECOND], BAD, "frames after the header"),
    "empty message in the middle": ([HEADER, FIRST, pb.PutChunkRequest(), SECOND], BAD, "frames after the header"),
    "wrong offset": ([HEADER, frame(1, CONTAINER)], DAMAGED, "offset 0; got 1"),
    "gap": ([HEADER, FIRST, frame(HALF + 1, CONTAINER[HALF:])], DAMAGED, f"offset {HALF}; got {HALF + 1}"),
    "a frame twice": ([HEADER, FIRST, FIRST, SECOND], DAMAGED, f"offset {HALF}; got 0"),
    "frames swapped": ([HEADER, SECOND, FIRST], DAMAGED, "offset 0; got"),
    "oversized frame": ([declaring(2 * FRAME_BYTES), frame(0, bytes(FRAME_BYTES + 1))], DAMAGED, "a frame of 1"),
    "empty frame": ([HEADER, frame(0, b""), FIRST, SECOND], DAMAGED, "a frame of 1"),
    "more than declared": ([declaring(len(CONTAINER) - 1), FIRST, SECOND], DAMAGED, "as declared; got more"),
    "fewer than declared": ([HEADER, FIRST], DAMAGED, f"ended after {HALF}"),
    "no frame": ([HEADER], DAMAGED, "ended after 0"),
    "far too much declared": ([declaring(2**64 - 1), FIRST, SECOND], BAD, "payload of at most"),
    "one byte too much declared": ([declaring((1 << 30) + 1), FIRST], BAD, "payload of at most"),
    "nothing declared and sent": ([declaring(0)], DAMAGED, "container of at least"),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_that_is_no_header_and_its_frames(node: Node, name: str) -> None:
    await assert_refused(node, *STREAMS[name])


# Headers


def documents(*document_ids: str) -> Change:
    return lambda header: header.meta.document_ids.extend(document_ids)


def field(name: str, value: object) -> Change:
    """Set a field, given by its path."""

    def change(header: pb.PutChunkHeader) -> None:
        *path, last = name.split(".")
        message = header
        for step in path:
            message = getattr(message, step)
        setattr(message, last, value)

    return change


def sources(count: int, **changes: object) -> Change:
    one = pb.ContextSource(**{"chunk_key": bytes(32), "token_count": 1, "inter": 0.5, **changes})
    return lambda header: header.meta.sources.extend([one] * count)


WRONG_IN_ANY_PUT: dict[str, tuple[Change, str]] = {
    "empty key": (field("object_key", b""), "object key of 32 bytes; got 0"),
    "short key": (field("object_key", bytes(31)), "got 31"),
    "long key": (field("object_key", bytes(33)), "got 33"),
    "another key": (field("object_key", bytes(32)), "another key"),
    "no description": (lambda header: header.ClearField("meta"), "a variant in"),
    "empty document id": (documents(""), "document id of 1..1024"),
    "long document id": (documents("x" * 1025), "document id of 1..1024"),
    "long document id in bytes": (documents("é" * 513), "document id of 1..1024"),
    "control character": (documents("a\nb"), "printable"),
    "too many documents": (documents(*map(str, range(4096))), "at most 4096 document ids"),
    "level unset": (field("meta.level", 0), "a level in"),
    "unknown level": (field("meta.level", 99), "a level in .*99"),
    "another level": (field("meta.level", common_pb2.LEVEL_LOSSLESS), "differs|another key"),
    "variant unset": (field("meta.variant_kind", 0), "a variant in"),
    "unknown variant": (field("meta.variant_kind", 99), "a variant in .*99"),
    "another variant": (field("meta.variant_kind", common_pb2.VARIANT_KIND_EXACT), "differs|another key"),
    "token count 0": (field("meta.token_count", 0), "below 0"),
    "another token count": (field("meta.token_count", 301), "differs|of 301 tokens; got .* of 300"),
    "negative seconds": (field("meta.compute_seconds", -0.001), "compute_seconds"),
    "NaN seconds": (field("meta.compute_seconds", float("nan")), "compute_seconds"),
    "endless seconds": (field("meta.compute_seconds", float("inf")), "compute_seconds"),
    "fingerprint of no form": (field("meta.model_fingerprint", "not hex"), "differs|64 hex digits"),
    "fingerprint in capitals": (field("meta.model_fingerprint", FINGERPRINT.upper()), "differs|64 hex digits"),
    "short chunk key": (field("meta.chunk_key", bytes(31)), "chunk key of 32 bytes"),
    "another chunk key": (field("meta.chunk_key", bytes(32)), "differs|another key"),
    "no context": (field("meta.context_digest", b""), "context digest of 32 bytes"),
    "another context": (field("meta.context_digest", bytes(32)), "differs|another key"),
    "no prefix": (field("meta.prefix_digest", b""), "prefix digest of 32 bytes"),
    "negative attention": (field("meta.intra", -1.0), "intra in 0..4097"),
    "too many sources": (sources(65), "at most 64 sources"),
    "source without a key": (sources(1, chunk_key=b""), "chunk key of a source of 32 bytes; got 0"),
    "source without tokens": (sources(1, token_count=0), "source of 1..4096 tokens"),
    "endless attention": (sources(1, inter=float("inf")), "inter in 0..4097"),
    "fingerprints cut": (field("meta.fingerprints", bytes(35)), "fingerprints of 18 bytes each; got 35"),
    "fingerprints beyond": (field("meta.fingerprints", b"\xff\xff" + bytes(16)), "offsets below 300"),
    "no fingerprint": (field("meta.model_fingerprint", ""), "differs|64 hex digits"),
}


@pytest.mark.parametrize("kind", ["container", "tensors"])
@pytest.mark.parametrize("name", WRONG_IN_ANY_PUT)
async def test_a_header_that_cannot_be(node: Node, name: str, kind: str) -> None:
    change, message = WRONG_IN_ANY_PUT[name]
    header, payload = calls.container_header(), CONTAINER
    if kind == "tensors":
        header, payload = calls.tensor_header(), raw_bytes(CHUNK)
    change(header)
    await assert_refused(node, calls.put_requests(header, payload), BAD, message)


@pytest.mark.parametrize(
    "change",
    [
        field("meta.prefix_digest", bytes(32)),
        field("meta.intra", 0.125),
        field("meta.fingerprints", b""),
        lambda header: header.meta.sources.pop(),
    ],
)
async def test_a_container_that_says_something_else_than_its_description(node: Node, change: Change) -> None:
    """Else the index would say one thing, and after it was rebuilt from the containers another."""
    header = calls.container_header()
    change(header)
    await assert_refused(node, calls.put_requests(header, CONTAINER), BAD, "agree with the container's header")


def layer(**changes: int) -> Change:
    def change(header: pb.PutChunkHeader) -> None:
        for name, value in changes.items():
            setattr(header.tensors.layout.layers[1], name, value)

    return change


WRONG_TENSORS: dict[str, tuple[Change, str]] = {
    "no layers": (lambda header: header.tensors.layout.ClearField("layers"), "1..1024 layers; got 0"),
    "too many layers": (lambda header: header.tensors.layout.layers.extend([common_pb2.LayerShape()] * 1022), "1024"),
    "one layer fewer": (lambda header: header.tensors.layout.layers.pop(), "expected 38400 bytes"),
    "no heads": (layer(kv_heads=0), "kv_heads in 1..1024; got 0"),
    "no key dimension": (layer(key_dim=0), "key_dim in 1..4096; got 0"),
    "no value dimension": (layer(value_dim=0), "value_dim in 1..4096; got 0"),
    "huge dimension": (layer(value_dim=2**32 - 1), "value_dim in 1..4096"),
    "too many heads": (layer(kv_heads=1025), "kv_heads in 1..1024"),
    "largest shape there is": (layer(kv_heads=1024, key_dim=4096, value_dim=4096), "expected .* bytes"),
    "no data type": (field("tensors.layout.data_type", 0), "a known data type"),
    "unknown data type": (field("tensors.layout.data_type", 77), "a known data type"),
    "another data type": (field("tensors.layout.data_type", common_pb2.DATA_TYPE_FLOAT32), "expected 115200 bytes"),
    "no token ids": (lambda header: header.tensors.ClearField("token_ids"), "token ids"),
    "one token id more": (lambda header: header.tensors.token_ids.append(1), "of 301"),
    "too many token ids": (lambda header: header.tensors.token_ids.extend([1] * 4096), "1..4096 token ids"),
    "rotated from beyond": (field("tensors.rotated_from", 2**31), "rotated_from"),
    "attributes too large": (documents(*(f"{n:0900d}" for n in range(80))), "bytes of attributes"),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
async def test_tensors_that_cannot_be(node: Node, name: str) -> None:
    change, message = WRONG_TENSORS[name]
    header = calls.tensor_header()
    change(header)
    await assert_refused(node, calls.put_requests(header, raw_bytes(CHUNK)), BAD, message)


@pytest.mark.parametrize("change", [-1, 1, -len(raw_bytes(CHUNK))])
async def test_tensors_of_another_size_than_their_layout(node: Node, change: int) -> None:
    payload = (raw_bytes(CHUNK) + b"\0")[: len(raw_bytes(CHUNK)) + change]
    header = calls.tensor_header()
    header.payload_bytes = len(payload)
    await assert_refused(node, calls.put_requests(header, payload), BAD, f"got {len(payload)} of 300")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("data_type", list(DataType))
@pytest.mark.parametrize("level", STORED)
async def test_tensors_that_are_not_finite(node: Node, level: Level, data_type: DataType, value: float) -> None:
    chunk = make_chunk(3, data_type=data_type)
    header = calls.tensor_header(chunk, level)
    chunk.values[2][1, 1, 3] = value
    await assert_refused(node, calls.put_requests(header, raw_bytes(chunk)), BAD, "finite values of layer 2")


# Containers


def flipped(place: int) -> bytes:
    data = bytearray(CONTAINER)
    data[place] ^= 1
    return bytes(data)


CONTAINERS: dict[str, tuple[bytes, str, str]] = {
    "cut by a byte": (CONTAINER[:-1], "integrity", "container of"),
    "cut in the head": (CONTAINER[:100], "integrity", "truncated"),
    "cut in the prefix": (CONTAINER[:10], "integrity", "at least"),
    "a byte longer": (CONTAINER + b"\0", "integrity", "container of"),
    "flipped payload": (flipped(-1), "checksum", "damaged"),
    "flipped header": (flipped(60), "checksum", "damaged"),
    "no container": (b"GGUF" + CONTAINER[4:], "integrity", "magic"),
    "another version": (CONTAINER[:8] + b"\x02" + CONTAINER[9:], "unknown_version", "version 1"),
}


@pytest.mark.parametrize("name", CONTAINERS)
async def test_a_damaged_container(node: Node, name: str) -> None:
    data, reason, message = CONTAINERS[name]
    requests = calls.put_requests(calls.container_header(size=len(data)), data)
    await assert_refused(node, requests, (StatusCode.DATA_LOSS, reason), message)


@pytest.mark.parametrize("size", [100, 20_000, 500_000])
async def test_a_container_whose_error_would_make_a_long_message(node: Node, size: int) -> None:
    """A message quotes what came; beyond gRPC's limit of metadata the whole answer would be lost."""
    draft = Draft.parse(CONTAINER)
    draft.header["attributes"]["compute_seconds"] = "é" * size
    data = draft.build()
    requests = calls.put_requests(calls.container_header(size=len(data)), data)
    await assert_refused(node, requests, DAMAGED, "well-formed attributes")


# Everything else


async def test_a_message_over_the_size_limit(node: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="larger than max") as caught:
        await node.put_raw([HEADER, frame(0, bytes(9 << 20))])
    assert caught.value.code() is StatusCode.RESOURCE_EXHAUSTED
    await assert_untouched(node)
