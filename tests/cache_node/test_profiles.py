"""Codec profiles on a running node: content-addressed, checked at both ends, kept while objects need them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from kvquilt_codec import container
from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
)
from kvquilt_codec.identity import chunk_key
from kvquilt_codec.profile import file
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from tests.cache_node.calls import DEADLINE, Node, answer, raw_bytes, serving
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import CONTEXT, FINGERPRINT, NAMESPACE, OTHER_FINGERPRINT, UNIFORM, make_chunk, make_object

PROFILE = make_profile(distance=3.0)
DATA = file.dump(PROFILE)
DIGEST = file.digest(DATA)
CODER = make_coder(PROFILE)
CHUNK = make_chunk(300)
KEY, CONTAINER, META = make_object(CHUNK, Level.HIGH, "a document", coder=CODER)
BAD = (StatusCode.INVALID_ARGUMENT, "bad_request")


@pytest.fixture(params=["memory", "file"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    async with serving(request.param, tmp_path) as running:
        yield running


@pytest.fixture
async def holding(node: Node) -> Node:
    """A node that has the profile and one object coded with it."""
    assert await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
    assert await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE) is True
    return node


def put_requests(data: bytes, digest: str = DIGEST, fingerprint: str = FINGERPRINT, size: int = -1) -> list[object]:
    header = pb.PutProfileHeader(
        profile_digest=digest, model_fingerprint=fingerprint, payload_bytes=len(data) if size < 0 else size
    )
    frames = [common_pb2.Frame(offset=i, data=data[i : i + 5000]) for i in range(0, len(data), 5000)]
    return [pb.PutProfileRequest(header=header), *(pb.PutProfileRequest(frame=frame) for frame in frames)]


async def got(node: Node, **options: object) -> bytes:
    pieces = node.client.get(KEY, FINGERPRINT, deadline=DEADLINE, **options)
    return b"".join([piece async for piece in pieces if isinstance(piece, bytes)])


# Putting and getting profiles


async def test_what_is_put_is_got_and_listed(node: Node) -> None:
    client = node.client
    assert await client.list_profiles(deadline=DEADLINE) == []
    assert await client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
    assert await client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is False
    assert await client.get_profile(DIGEST, FINGERPRINT, deadline=DEADLINE) == DATA
    (info,) = await client.list_profiles(deadline=DEADLINE)
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
        assert await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True


async def test_profiles_have_the_size_limit_of_puts_and_fit_the_cap(tmp_path: Path) -> None:
    async with serving(max_object=len(DATA) - 1) as node:
        with pytest.raises(BadRequestError, match="payload of at most"):
            await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    async with serving(capacity=len(DATA) - 1) as node:
        with pytest.raises(CapacityError):
            await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)


async def test_getting_what_is_not_there_or_of_another_model(holding: Node) -> None:
    with pytest.raises(NotFoundError) as caught:
        await holding.client.get_profile("0e" * 32, deadline=DEADLINE)
    assert caught.value.reason == "profile_missing"
    with pytest.raises(FingerprintMismatchError, match="calibrate this model"):
        await holding.client.get_profile(DIGEST, OTHER_FINGERPRINT, deadline=DEADLINE)
    for digest in ("", "xyz", DIGEST + "0"):
        with pytest.raises(BadRequestError, match="64 hex digits"):
            await holding.client.get_profile(digest, deadline=DEADLINE)
    assert await holding.client.get_profile(DIGEST, deadline=DEADLINE) == DATA


async def test_a_profile_outlives_the_process_and_a_lost_index(tmp_path: Path) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    for index in tmp_path.glob("index.sqlite*"):
        index.unlink()
    async with serving("file", tmp_path) as node:
        (info,) = await node.client.list_profiles(deadline=DEADLINE)
        assert (info.digest, info.model_fingerprint, info.objects) == (DIGEST, FINGERPRINT, 1)
        assert await got(node) == CONTAINER
        assert await got(node, decoded=True, quality_layers=1)


DAMAGES = {"cut": DATA[:-1], "altered": DATA[:100] + b"\1" + DATA[101:], "empty": b""}


@pytest.mark.parametrize("damaged", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_profile_is_never_served_and_can_be_stored_anew(tmp_path: Path, damaged: bytes) -> None:
    async with serving("file", tmp_path) as node:
        await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        (path,) = tmp_path.glob(f"blobs/??/{DIGEST}.kvq")
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError) as caught:
            await node.client.get_profile(DIGEST, deadline=DEADLINE)
        assert caught.value.reason == "profile_damaged"
        with pytest.raises(NotFoundError):
            await got(node, decoded=True)
        assert await got(node) == CONTAINER, "its objects stay"
        assert (await node.counters())["profiles_damaged"] == 1
        assert await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE) is True
        assert await got(node, decoded=True)


# Objects that are coded with a profile


async def test_an_object_needs_its_profile_and_its_model(node: Node) -> None:
    for put in (node.client.put(KEY, CONTAINER, META, deadline=DEADLINE), put_tensors(node)):
        with pytest.raises(NotFoundError) as caught:
            await put
        assert caught.value.reason == "profile_missing"
    await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    key, data, meta = make_object(CHUNK, Level.HIGH, fingerprint=OTHER_FINGERPRINT, coder=CODER)
    with pytest.raises(FingerprintMismatchError):
        await node.client.put(key, data, meta, deadline=DEADLINE)
    assert (await node.used())[0] == 0


async def put_tensors(node: Node) -> bool:
    own = chunk_key(NAMESPACE, FINGERPRINT, CHUNK.token_ids)
    return await node.client.put_tensors(KEY, CHUNK, META, own, CONTEXT, deadline=DEADLINE)


async def test_tensors_are_encoded_with_the_profile(node: Node) -> None:
    await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    assert await put_tensors(node) is True
    assert await got(node) == CONTAINER
    assert (await node.client.stat([KEY], deadline=DEADLINE))[KEY].meta.form == META.form
    assert (await node.client.list_profiles(deadline=DEADLINE))[0].objects == 1


@pytest.mark.parametrize("quality_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("layers", [None, range(1, 2)], ids=str)
async def test_one_object_serves_every_level_encoded_and_decoded(
    holding: Node, quality_layers: int, layers: range | None
) -> None:
    depth = quality_layers or None
    expected = container.decode(CONTAINER, FINGERPRINT, layers, depth, lambda _: CODER)
    data = await got(holding, quality_layers=quality_layers, layers=layers)
    decoder = container.ContainerDecoder(FINGERPRINT, layers, depth, lambda _: CODER)
    decoder.feed(data)
    tensors = await got(holding, quality_layers=quality_layers, layers=layers, decoded=True)
    for decoded in (decoder.finish(), expected):
        assert tensors == b"".join(kv.keys.tobytes() + kv.values.tobytes() for kv in decoded.kv)


async def test_fewer_quality_layers_take_fewer_bytes_and_an_upgrade_the_missing_ones(holding: Node) -> None:
    counted: list[int] = []
    read = {"deadline": DEADLINE, "received": counted.append}
    low = await holding.client.read(KEY, FINGERPRINT, quality_layers=1, **read)
    high = await holding.client.upgrade(KEY, FINGERPRINT, low, quality_layers=0, **read)
    head = container.parse_head(CONTAINER).head_bytes
    assert sum(counted) == len(CONTAINER) + head, "the head twice, everything else once"
    assert high.decode(lambda _: CODER).chunk().keys[1].tobytes() == (
        container.decode(CONTAINER, FINGERPRINT, coders=lambda _: CODER).chunk().keys[1].tobytes()
    )
    assert (await holding.counters())["bytes_sent"] == sum(counted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"quality_layers": 4}, "1..3 quality layers; got 4"),
        ({"quality_layers": 2**32 - 1}, "1..3 quality layers"),
        ({"held": 3}, "fewer than the 3"),
        ({"held": 2**32 - 1}, "fewer than the 3"),
        ({"quality_layers": 1, "held": 1}, "fewer than the 1"),
        ({"quality_layers": 2, "held": 1, "decoded": True}, "got decoded"),
    ],
)
async def test_parts_that_cannot_be_are_refused_and_the_object_stays(
    holding: Node, options: dict[str, object], message: str
) -> None:
    with pytest.raises(BadRequestError, match=message):
        await got(holding, **options)
    assert await got(holding) == CONTAINER


async def test_partial_reads_verify_what_they_send(tmp_path: Path) -> None:
    """A section that a coarse reader does not need may be damaged; the reader that needs it is told."""
    async with serving("file", tmp_path) as node:
        await node.client.put_profile(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
        (path,) = tmp_path.glob(f"blobs/??/{KEY.hex()}.kvq")
        head = container.parse_head(CONTAINER)
        finest = max(head.sections, key=lambda section: section.quality_layer)
        data = bytearray(CONTAINER)
        data[finest.offset] ^= 1
        path.write_bytes(data)
        low = await node.client.read(KEY, FINGERPRINT, quality_layers=2, deadline=DEADLINE)
        assert low.decode(lambda _: CODER).token_ids.tolist() == CHUNK.token_ids.tolist()
        with pytest.raises(IntegrityError) as caught:
            await node.client.upgrade(KEY, FINGERPRINT, low, quality_layers=3, deadline=DEADLINE)
        assert caught.value.reason == "checksum"
        with pytest.raises(IntegrityError):
            await got(node, decoded=True)
        with pytest.raises(NotFoundError):
            await got(node)


# Profiles and the calls for chunks


async def test_calls_for_chunks_leave_profiles_alone(holding: Node) -> None:
    key = bytes.fromhex(DIGEST)
    assert await holding.client.stat([key], deadline=DEADLINE) == {}
    await holding.client.touch([key], ["a document"], deadline=DEADLINE)
    with pytest.raises(IntegrityError):
        [item async for item in holding.client.get(key, FINGERPRINT, deadline=DEADLINE)]
    receipt = await holding.client.forget(keys=[key], documents=["a document"], deadline=DEADLINE)
    assert receipt.deleted == (KEY,)
    assert await holding.client.get_profile(DIGEST, deadline=DEADLINE) == DATA


@pytest.mark.parametrize(
    ("digest", "level", "expected"),
    [
        ("0f" * 32, common_pb2.LEVEL_HIGH, (StatusCode.NOT_FOUND, "profile_missing")),
        ("no digest", common_pb2.LEVEL_HIGH, BAD),
        (DIGEST, common_pb2.LEVEL_LOSSLESS, BAD),
        (DIGEST, common_pb2.LEVEL_LOW, BAD),
        ("", common_pb2.LEVEL_MEDIUM, BAD),
        ("", common_pb2.LEVEL_HIGH, BAD),
    ],
)
async def test_a_description_with_another_form_is_refused(
    holding: Node, digest: str, level: common_pb2.Level.ValueType, expected: tuple[StatusCode, str]
) -> None:
    header = pb.PutChunkHeader(
        object_key=KEY,
        meta=pb.ObjectMeta(
            model_fingerprint=FINGERPRINT,
            token_count=300,
            variant_kind=common_pb2.VARIANT_KIND_BASE,
            level=level,
            profile_digest=digest,
        ),
        payload_bytes=len(CONTAINER),
    )
    requests = [
        pb.PutChunkRequest(header=header),
        pb.PutChunkRequest(frame=common_pb2.Frame(offset=0, data=CONTAINER)),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await holding.put_raw(requests)
    assert answer(caught.value) == expected


async def test_more_profiles_than_are_kept_ready_all_decode(node: Node) -> None:
    made = [make_profile(seed=seed) for seed in range(6)]
    chunk = make_chunk(20, UNIFORM)
    objects = [make_object(chunk, Level.HIGH, coder=make_coder(profile)) for profile in made]
    for profile, (key, data, meta) in zip(made, objects, strict=True):
        await node.client.put_profile(file.dump(profile), meta.form.profile_digest, FINGERPRINT, deadline=DEADLINE)
        await node.client.put(key, data, meta, deadline=DEADLINE)

    async def decoded(key: bytes) -> bytes | KvquiltError:
        items = node.client.get(key, FINGERPRINT, deadline=DEADLINE, decoded=True)
        return b"".join([item async for item in items if isinstance(item, bytes)])

    for _ in range(2):
        read = await asyncio.gather(*(decoded(key) for key, _, _ in objects))
        for profile, (_, data, _), payload in zip(made, objects, read, strict=True):
            coder = make_coder(profile)
            expected = container.decode(data, FINGERPRINT, coders=lambda _, coder=coder: coder).chunk()
            assert payload == raw_bytes(expected)
