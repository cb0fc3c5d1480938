"""Codec profiles on a running node: content-addressed, checked at both ends, kept while objects need them."""

from collections.abc import Iterable
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    FingerprintMismatchError,
    IntegrityError,
    NotFoundError,
)
from kvquilt_codec.profile import file
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from tests.cache_node.calls import DEADLINE, Node, answer, serving
from tests.cache_node.coded import BAD, CONTAINER, DATA, DIGEST, KEY, META, got
from tests.codec.profiles import make_profile
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT


def put_requests(data: bytes, digest: str = DIGEST, fingerprint: str = FINGERPRINT, size: int = -1) -> list[object]:
    header = pb.PutProfileHeader(
        profile_digest=digest, model_fingerprint=fingerprint, payload_bytes=len(data) if size < 0 else size
    )
    frames = [common_pb2.Frame(offset=i, data=data[i : i + 5000]) for i in range(0, len(data), 5000)]
    return [pb.PutProfileRequest(header=header), *(pb.PutProfileRequest(frame=frame) for frame in frames)]


# Putting and getting profiles


async def test_what_is_put_is_got_and_listed(node: Node) -> None:
    client = node.client
    assert await client.profiles.list(deadline=DEADLINE) == []
    assert await client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
    assert await client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is False
    assert await client.profiles.get(DIGEST, FINGERPRINT, deadline=DEADLINE) == DATA
    (info,) = await client.profiles.list(deadline=DEADLINE)
    assert (info.digest, info.model_fingerprint) == (DIGEST, FINGERPRINT)
    assert (info.stored_bytes, info.objects) == (len(DATA), 0)
    assert await node.used() == (0, len(DATA)), "no object, but it counts towards the cap"
    counters = await node.counters()
    assert (counters["profiles_stored"], counters["profiles_sent"]) == (1, 1)


OTHER = file.dump(make_profile(seed=1))
REFUSED: dict[str, tuple[Iterable[object], tuple[StatusCode, str]]] = {
    "nothing": ([], BAD),
    "frame first": (put_requests(DATA)[1:], BAD),
    "two headers": ([put_requests(DATA)[0], *put_requests(DATA)], BAD),
    "another digest": (put_requests(DATA, file.digest(OTHER)), (StatusCode.DATA_LOSS, "checksum")),
    "other bytes": (put_requests(OTHER), (StatusCode.DATA_LOSS, "checksum")),
    "truncated": (put_requests(DATA[:-1]), (StatusCode.DATA_LOSS, "checksum")),
    "a frame is missing": (put_requests(DATA)[:-1], (StatusCode.DATA_LOSS, "integrity")),
    "digest of no form": (put_requests(DATA, "../../etc/passwd"), BAD),
    "digest in capitals": (put_requests(DATA, DIGEST.upper()), BAD),
    "another model": (put_requests(DATA, fingerprint=OTHER_FINGERPRINT), BAD),
    "no model": (put_requests(DATA, fingerprint=""), BAD),
    "no profile": (put_requests(CONTAINER, file.digest(CONTAINER)), (StatusCode.DATA_LOSS, "integrity")),
    "far too much declared": (put_requests(DATA, size=2**64 - 1), BAD),
    "one byte more than a profile may have": (put_requests(DATA, size=file.MAX_BYTES + 1), BAD),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_no_profile_of_its_digest_is_refused(name: str) -> None:
    requests, expected = REFUSED[name]
    async with serving() as node:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await node.stub.PutProfile(iter(requests), timeout=DEADLINE)
        assert answer(caught.value) == expected
        assert await node.used() == (0, 0)
        assert await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True


async def test_profiles_have_the_size_limit_of_puts_and_fit_the_cap(tmp_path: Path) -> None:
    async with serving(max_object=len(DATA) - 1) as node:
        with pytest.raises(BadRequestError, match="payload of at most"):
            await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    async with serving(capacity=len(DATA) - 1) as node:
        with pytest.raises(CapacityError):
            await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)


async def test_getting_what_is_not_there_or_of_another_model(holding: Node) -> None:
    with pytest.raises(NotFoundError) as caught:
        await holding.client.profiles.get("0e" * 32, deadline=DEADLINE)
    assert caught.value.reason == "profile_missing"
    with pytest.raises(FingerprintMismatchError, match="calibrate this model"):
        await holding.client.profiles.get(DIGEST, OTHER_FINGERPRINT, deadline=DEADLINE)
    for digest in ("", "xyz", DIGEST + "0"):
        with pytest.raises(BadRequestError, match="64 hex digits"):
            await holding.client.profiles.get(digest, deadline=DEADLINE)
    assert await holding.client.profiles.get(DIGEST, deadline=DEADLINE) == DATA


async def test_a_profile_outlives_the_process_and_a_lost_index(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as node:
        (info,) = await node.client.profiles.list(deadline=DEADLINE)
        assert (info.digest, info.model_fingerprint, info.objects) == (DIGEST, FINGERPRINT, 1)
        assert await got(node) == CONTAINER
        assert await got(node, decoded=True, quality_layers=1)


DAMAGES = {"cut": DATA[:-1], "altered": DATA[:100] + b"\1" + DATA[101:], "empty": b""}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_profile_is_never_served_and_can_be_stored_anew(tmp_path: Path, damaged: bytes) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        (path,) = tmp_path.glob(f"blobs/??/{DIGEST}.kvq")
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            await node.client.profiles.get(DIGEST, deadline=DEADLINE)
        assert caught.value.reason == "profile_damaged"
        with pytest.raises(NotFoundError):
            await got(node, decoded=True)
        assert await got(node) == CONTAINER, "its objects stay"
        assert (await node.counters())["profiles_damaged"] == 1
        assert await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
        assert await got(node, decoded=True)
