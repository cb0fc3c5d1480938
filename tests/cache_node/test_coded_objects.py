"""Objects that are coded with a profile: read at any level, in part and upgraded, and never without the profile."""

import asyncio
from pathlib import Path

import grpc
import pytest
from grpc import StatusCode

from kvquilt_codec import container
from kvquilt_codec.errors import (
    BadRequestError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
)
from kvquilt_codec.profile import file
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import common_pb2
from kvquilt_rpc import convert
from kvquilt_rpc.node_batches import Piece
from tests.cache_node.calls import DEADLINE, Node, answer, raw_bytes, serving
from tests.cache_node.coded import BAD, CHUNK, CODER, CONTAINER, DATA, DIGEST, KEY, META, got
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT, UNIFORM, make_chunk, make_object


async def test_an_object_needs_its_profile_and_its_model(node: Node) -> None:
    for put in (node.client.put(KEY, CONTAINER, META, deadline=DEADLINE), put_tensors(node)):
        with pytest.raises(NotFoundError) as caught:
            await put
        assert caught.value.reason == "profile_missing"
    await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    key, data, meta = make_object(CHUNK, Level.HIGH, fingerprint=OTHER_FINGERPRINT, coder=CODER)
    with pytest.raises(FingerprintMismatchError):
        await node.client.put(key, data, meta, deadline=DEADLINE)
    assert (await node.used())[0] == 0


async def put_tensors(node: Node) -> bool:
    return await node.client.put_tensors(KEY, CHUNK, META, deadline=DEADLINE)


async def test_tensors_are_encoded_with_the_profile(node: Node) -> None:
    await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
    assert await put_tensors(node) is True
    assert await got(node) == CONTAINER
    assert (await node.client.stat([KEY], deadline=DEADLINE))[KEY].meta.form == META.form
    assert (await node.client.profiles.list(deadline=DEADLINE))[0].objects == 1


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
    came: list[Piece] = []
    read = {"deadline": DEADLINE, "received": came.append}
    low = await holding.client.read(KEY, FINGERPRINT, quality_layers=1, **read)
    high = await holding.client.upgrade(KEY, FINGERPRINT, low, quality_layers=0, **read)
    head = container.parse_head(CONTAINER).head_bytes
    size = sum(len(piece) for piece in came if isinstance(piece, bytes))
    assert size == len(CONTAINER) + head, "the head twice, everything else once"
    tiers = [convert.tier_from_wire(piece.tier) for piece in came if not isinstance(piece, bytes)]
    assert tiers == [Tier.STORE, Tier.STORE], "who keeps bytes is told where they came from"
    assert high.decode(lambda _: CODER).chunk().keys[1].tobytes() == (
        container.decode(CONTAINER, FINGERPRINT, coders=lambda _: CODER).chunk().keys[1].tobytes()
    )
    assert (await holding.counters())["bytes_sent"] == size


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
        await node.client.profiles.put(DATA, DIGEST, FINGERPRINT, deadline=DEADLINE)
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
        with pytest.raises(NotFoundError):  # dropped, so that it can be stored again
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
    assert await holding.client.profiles.get(DIGEST, deadline=DEADLINE) == DATA


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
            chunk_key=META.chunk_key,
            context_digest=META.context_digest,
            prefix_digest=META.prefix_digest,
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
        await node.client.profiles.put(file.dump(profile), meta.form.profile_digest, FINGERPRINT, deadline=DEADLINE)
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
