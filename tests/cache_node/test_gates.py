"""Gates on a running node: content-addressed, checked at both ends, found by model and profile."""

import os
from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from kvquilt_cache_node.types import FILES_KEPT
from kvquilt_codec.catalog import GateMeta
from kvquilt_codec.errors import BadRequestError, CapacityError, IntegrityError, NotFoundError
from kvquilt_codec.gate import file
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from tests.cache_node.calls import DEADLINE, Node, answer, serving
from tests.cache_node.coded import BAD, CONTAINER, DATA, DIGEST, KEY, META, got
from tests.codec.gates import make_files
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT

FIRST, SECOND = FILES = make_files(2, FINGERPRINT, DIGEST)
DAMAGED = (StatusCode.DATA_LOSS, "integrity")
CHECKSUM = (StatusCode.DATA_LOSS, "checksum")


def put_requests(data: bytes, digest: str | None = None, size: int = -1) -> list[object]:
    header = pb.PutGateHeader(
        gate_digest=file.digest(data) if digest is None else digest, payload_bytes=len(data) if size < 0 else size
    )
    frames = [common_pb2.Frame(offset=i, data=data[i : i + 900]) for i in range(0, len(data), 900)]
    return [pb.PutGateRequest(header=header), *(pb.PutGateRequest(frame=frame) for frame in frames)]


async def put(node: Node, data: bytes) -> bool:
    return await node.client.gates.put(data, deadline=DEADLINE)


async def gate_of(node: Node) -> object:
    return file.load(await node.client.gates.get(DIGEST, FINGERPRINT, deadline=DEADLINE))


def blob(folder: Path, data: bytes) -> Path:
    (path,) = folder.glob(f"blobs/??/{file.digest(data)}.kvq")
    return path


async def test_the_gate_that_was_put_last_is_got(node: Node) -> None:
    for data in FILES:
        assert await put(node, data) is True
        assert await put(node, data) is False
        assert await gate_of(node) == file.load(data)
    assert await put(node, FIRST) is False
    assert await gate_of(node) == file.load(SECOND), "it keeps its age"
    assert await node.used() == (0, len(FIRST) + len(SECOND)), "no objects, but they count towards the cap"
    counters = await node.counters()
    assert (counters["gates_stored"], counters["gates_sent"]) == (2, 3)


async def test_profiles_tell_how_many_gates_they_have(holding: Node) -> None:
    for data in make_files(FILES_KEPT[GateMeta] + 2, FINGERPRINT, DIGEST):
        await put(holding, data)
    (info,) = await holding.client.profiles.list(deadline=DEADLINE)
    assert (info.objects, info.gates) == (1, FILES_KEPT[GateMeta])


async def test_a_gate_of_another_model_or_profile_is_not_given(node: Node) -> None:
    for data in (*make_files(1, OTHER_FINGERPRINT, DIGEST), *make_files(1, FINGERPRINT, "0e" * 32)):
        await put(node, data)
    with pytest.raises(NotFoundError, match="kvquilt calibrate") as caught:
        await gate_of(node)
    assert caught.value.reason == "gate_missing"
    for digests in (("", FINGERPRINT), (DIGEST, ""), (DIGEST.upper(), FINGERPRINT), (DIGEST, "../x")):
        with pytest.raises(BadRequestError, match="64 hex digits"):
            await node.client.gates.get(*digests, deadline=DEADLINE)


REFUSED: dict[str, tuple[Iterable[object], tuple[StatusCode, str]]] = {
    "nothing": ([], BAD),
    "frame first": (put_requests(FIRST)[1:], BAD),
    "two headers": ([put_requests(FIRST)[0], *put_requests(FIRST)], BAD),
    "another digest": (put_requests(FIRST, file.digest(SECOND)), CHECKSUM),
    "a frame is missing": (put_requests(FIRST)[:-1], DAMAGED),
    "digest of no form": (put_requests(FIRST, "../../etc/passwd"), BAD),
    "digest in capitals": (put_requests(FIRST, file.digest(FIRST).upper()), BAD),
    "truncated": (put_requests(FIRST[:-9]), DAMAGED),
    "no JSON": (put_requests(CONTAINER), DAMAGED),
    "a profile": (put_requests(DATA), DAMAGED),
    "empty": (put_requests(b""), DAMAGED),
    "an unknown field": (put_requests(FIRST.replace(b'"texts"', b'"textz"')), DAMAGED),
    "a context that is none": (put_requests(FIRST.replace(b'"warm"', b'"cosy"')), DAMAGED),
    "a point twice": (put_requests(FIRST.replace(b'"warm"', b'"pair"')), DAMAGED),
    "deeply nested": (put_requests(b"[" * 100_000), DAMAGED),
    "far too much declared": (put_requests(FIRST, size=2**64 - 1), BAD),
    "one byte more than a gate may have": (put_requests(FIRST, size=file.MAX_BYTES + 1), BAD),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_gate_of_its_digest_is_refused(name: str) -> None:
    requests, expected = REFUSED[name]
    async with serving() as node:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.stub.PutGate(iter(requests), timeout=DEADLINE)
        assert answer(caught.value) == expected
        assert await node.used() == (0, 0)
        assert await put(node, FIRST) is True


async def test_gates_have_the_size_limit_of_puts_and_fit_the_cap() -> None:
    async with serving(max_object=len(FIRST) - 1) as node:
        with pytest.raises(BadRequestError, match="payload of at most"):
            await put(node, FIRST)
    async with serving(capacity=len(FIRST) - 1) as node:
        with pytest.raises(CapacityError):
            await put(node, FIRST)


async def test_gates_outlive_the_process_and_a_lost_index_in_their_order(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        for number, data in enumerate(FILES):
            await put(node, data)
            os.utime(blob(tmp_path, data), (1_000 + number, 1_000 + number))  # a clock too coarse must not matter
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as node:
        assert await gate_of(node) == file.load(SECOND)
        (info,) = await node.client.profiles.list(deadline=DEADLINE)
        assert (info.objects, info.gates) == (1, 2)
        assert await got(node) == CONTAINER
        assert await put(node, FIRST) is False


async def test_a_gate_under_a_name_that_is_not_its_own_is_not_adopted(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        await put(node, FIRST)
    path = blob(tmp_path, FIRST)
    path.write_bytes(SECOND)
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as node:
        assert await node.used() == (0, 0)
        assert not path.exists()


DAMAGES = {"cut": SECOND[:-1], "altered": SECOND.replace(b"0.9", b"0.8", 1), "empty": b"", "another": FIRST}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_gate_is_never_served_and_the_one_before_it_is(tmp_path: Path, damaged: bytes) -> None:
    async with serving("file", tmp_path) as node:
        for data in FILES:
            await put(node, data)
        blob(tmp_path, SECOND).write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            await gate_of(node)
        assert caught.value.reason == "gate_damaged"
        assert await gate_of(node) == file.load(FIRST)
        assert (await node.counters())["gates_damaged"] == 1
        assert await put(node, SECOND) is True
        assert await gate_of(node) == file.load(SECOND)


async def test_a_gate_whose_file_is_gone_is_passed_over(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        for data in FILES:
            await put(node, data)
        blob(tmp_path, SECOND).unlink()
        assert await gate_of(node) == file.load(FIRST)
        assert await node.used() == (0, len(FIRST))


async def test_a_gate_is_no_object(holding: Node) -> None:
    await put(holding, FIRST)
    key = bytes.fromhex(file.digest(FIRST))
    with pytest.raises(IntegrityError):
        [piece async for piece in holding.client.get(key, FINGERPRINT, deadline=DEADLINE)]
    await holding.client.forget(keys=[key], deadline=DEADLINE)
    assert await gate_of(holding) == file.load(FIRST), "neither reading nor forgetting it as an object takes it"
