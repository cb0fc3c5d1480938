"""Look-ups by text over the wire: variants of chunks, and chunks inside a longer text."""

from collections.abc import AsyncIterator

import grpc
import numpy as np
import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.fingerprints import FINGERPRINT_BYTES, fingerprints
from kvquilt_codec.types import Level
from kvquilt_proto.v1 import cache_node_pb2 as pb
from tests.cache_node.calls import CHUNK, CONTAINER, DEADLINE, KEY, META, Node, answer, serving
from tests.cache_node.coded import BAD
from tests.codec.samples import FINGERPRINT, NAMESPACE, OTHER_FINGERPRINT, PREFIX, make_object


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with serving() as running:
        yield running


async def test_variants_are_found_by_the_chunks_text(node: Node) -> None:
    other = make_object(CHUNK, Level.LOSSLESS, "a document")
    for key, data, meta in ((KEY, CONTAINER, META), other):
        await node.client.put(key, data, meta, deadline=DEADLINE)
    chunk = META.chunk_key
    asked = [bytes([number % 256, number // 256]) * 16 for number in range(1, 4096)]
    found = await node.client.find_variants([*asked, chunk], FINGERPRINT, PREFIX, deadline=DEADLINE)
    assert list(found) == [chunk]
    assert {info.key for info in found[chunk]} == {KEY, other[0]}
    stated = await node.client.stat([KEY, other[0]], deadline=DEADLINE)
    assert {info.key: info for info in found[chunk]} == stated
    assert stated[KEY].meta.sources == META.sources
    assert stated[KEY].meta.intra == META.intra
    assert stated[KEY].use_count == 0
    assert len((await node.client.find_variants([chunk], FINGERPRINT, PREFIX, deadline=DEADLINE, limit=1))[chunk]) == 1
    assert await node.client.find_variants([chunk], OTHER_FINGERPRINT, PREFIX, deadline=DEADLINE) == {}
    assert await node.client.find_variants([chunk], FINGERPRINT, bytes(32), deadline=DEADLINE) == {}
    assert await node.client.find_variants([], FINGERPRINT, PREFIX, deadline=DEADLINE) == {}


async def test_a_chunk_is_found_inside_a_longer_text(node: Node) -> None:
    await node.client.put(KEY, CONTAINER, META, deadline=DEADLINE)
    before = np.arange(1_000, 30_000, dtype=np.uint32)
    text = fingerprints(NAMESPACE, FINGERPRINT, np.concatenate([before, CHUNK.token_ids, before[:100]]))
    assert len(text) > 1024, "more than one message of the node looks up"
    digests = [digest for _, digest in text]
    matches = await node.client.find_chunks(digests, FINGERPRINT, deadline=DEADLINE)
    assert len(matches) > 3
    assert {text[match.fingerprint][0] - match.offset for match in matches} == {len(before)}
    assert {(match.chunk_key, match.tokens) for match in matches} == {(META.chunk_key, CHUNK.tokens)}
    assert await node.client.find_chunks(digests, OTHER_FINGERPRINT, deadline=DEADLINE) == []
    assert await node.client.find_chunks([], FINGERPRINT, deadline=DEADLINE) == []
    await node.client.forget(keys=[KEY], deadline=DEADLINE)
    assert await node.client.find_chunks(digests, FINGERPRINT, deadline=DEADLINE) == []


async def test_the_largest_question_is_answered(node: Node) -> None:
    digests = [number.to_bytes(FINGERPRINT_BYTES, "big") for number in range(1 << 16)]
    assert await node.client.find_chunks(digests, FINGERPRINT, deadline=DEADLINE) == []


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (pb.FindVariantsRequest(chunk_keys=[bytes(31)], prefix_digest=PREFIX), "chunk key of 32 bytes; got 31"),
        (pb.FindVariantsRequest(chunk_keys=[bytes(32)]), "prefix digest of 32 bytes; got 0"),
        (pb.FindVariantsRequest(chunk_keys=[bytes(32)] * 4097, prefix_digest=PREFIX), "at most 4096 keys"),
        (pb.FindVariantsRequest(prefix_digest=PREFIX, limit=65), "limit of 1..64, or 0 for 16; got 65"),
        (pb.FindChunksRequest(fingerprints=[bytes(15)]), "fingerprints of 16 bytes"),
        (pb.FindChunksRequest(fingerprints=[bytes(16)] * 65_537), "at most 65536 fingerprints"),
        (pb.FindChunksRequest(fingerprints=[bytes(16)], limit=9), "limit of 1..8, or 0 for 8; got 9"),
    ],
)
async def test_questions_that_cannot_be_are_refused(
    node: Node, request_: pb.FindVariantsRequest | pb.FindChunksRequest, message: str
) -> None:
    call = node.stub.FindVariants if isinstance(request_, pb.FindVariantsRequest) else node.stub.FindChunks
    with pytest.raises(grpc.aio.AioRpcError, match=message) as caught:
        [item async for item in call(request_, timeout=DEADLINE)]
    assert answer(caught.value) == BAD
    with pytest.raises(BadRequestError, match="limit"):
        await node.client.find_chunks([bytes(16)], FINGERPRINT, deadline=DEADLINE, limit=9)
