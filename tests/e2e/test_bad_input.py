"""Requests that cannot be right get a clear error over real gRPC, and the next request is served."""

import asyncio

import grpc
import numpy as np
import pytest

from kvquilt import AsyncClient, Client, Document
from kvquilt.errors import BadRequestError, NotFoundError
from kvquilt_proto.v1 import common_pb2, router_pb2_grpc
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.engine.model import prepare
from tests.router.families import tiny
from tests.stack import serve
from tests.texts import PASSAGES, QUESTION


@pytest.fixture(scope="module")
def address(smollm2, tmp_path_factory):
    """Of a router whose model is tiny, with a real tokenizer."""
    sizes = {"vocab_size": 49152, "max_position_embeddings": 8192}
    model = prepare(tiny("LlamaConfig", sizes), smollm2.tokenizer, "tiny")
    with serve(model, tmp_path_factory.mktemp("store")) as address:
        yield address


@pytest.fixture
def client(address):
    with Client(address) as client:
        yield client


@pytest.mark.parametrize(
    ("segments", "options", "words"),
    [
        ([], {}, "sequence of segments"),
        ("a bare string", {}, "bare string"),
        (["", QUESTION], {}, "segment 1 is empty"),
        ([PASSAGES[0], ""], {}, "segment 2 is empty"),
        ([PASSAGES[0], []], {}, "segment 2 is empty"),
        ([[1.5, 2.5], QUESTION], {}, "whole numbers"),
        ([[-1], QUESTION], {}, "token ids in 0"),
        ([[2**40], QUESTION], {}, "token ids in 0"),
        ([b"bytes", QUESTION], {}, "decode them"),
        ([[49152], QUESTION], {}, "below 49152"),
        ([PASSAGES[0], QUESTION], {"policy": "nope"}, "first-tokens"),
        ([PASSAGES[0], QUESTION], {"recompute_ratio": 1.5}, "0..1"),
        ([PASSAGES[0], QUESTION], {"recompute_ratio": -0.1}, "0..1"),
        ([PASSAGES[0], QUESTION], {"recompute_ratio": float("nan")}, "0..1"),
        ([PASSAGES[0], QUESTION], {"level": "huge"}, "lossless"),
        ([PASSAGES[0], QUESTION], {"level": "low"}, "kvquilt calibrate"),
        ([PASSAGES[0], QUESTION], {"level": "kl<0"}, "above 0"),
        ([PASSAGES[0], QUESTION], {"max_kl": 0.0}, "above 0"),
        ([PASSAGES[0], QUESTION], {"max_kl": float("nan")}, "above 0"),
        ([[5] * 100_000, QUESTION], {}, "at most 8192 tokens"),
        ([PASSAGES[0], QUESTION], {"shared_prefix": [5] * 100_000}, "at most 8192 tokens"),
    ],
)
def test_a_blend_that_cannot_be_is_refused_and_says_why(client, segments, options, words):
    with pytest.raises(BadRequestError, match=words):
        client.blend(segments, **options)
    assert client.models()


def test_a_prompt_that_is_too_long_has_a_reason_of_its_own(client):
    with pytest.raises(BadRequestError) as caught:
        client.blend([[5] * 9000, QUESTION])
    assert caught.value.reason == "prompt_too_long"


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client):
    with pytest.raises(NotFoundError, match="tiny") as caught:
        client.blend([PASSAGES[0], QUESTION], model="gpt-17")
    assert caught.value.reason == "unknown_model"


def test_prefetch_refuses_duplicate_ids_empty_documents_and_bad_ids(client):
    with pytest.raises(BadRequestError, match="occurs twice"):
        list(client.prefetch([Document("a", "x"), Document("a", "y")]))
    with pytest.raises(BadRequestError, match="at least one token"):
        list(client.prefetch([Document("a", "")]))
    for name in ("", "x" * 2000, "line\nbreak"):
        with pytest.raises(BadRequestError, match="document id"):
            list(client.prefetch([Document(name, "text")]))


@pytest.mark.parametrize(
    ("passages", "words"),
    [([""], "1..4096"), ([[5] * 5000], "1..4096"), (["a"] * 65, "at most 64"), ([[49152]], "below 49152")],
)
def test_prefetch_refuses_warm_up_passages_that_cannot_be(client, passages, words):
    with pytest.raises(BadRequestError, match=words):
        list(client.prefetch([Document("a", "x")], warm_up=passages))


def test_prefetching_nothing_does_nothing(client):
    assert list(client.prefetch([])) == []


def test_long_documents_are_cut_and_a_message_that_is_too_large_is_refused(client):
    tokens = np.random.default_rng(0).integers(100, 40_000, 4000).tolist()
    with pytest.raises(BadRequestError, match="below 8388608 bytes"):
        list(client.prefetch([Document("enormous", "x" * (9 << 20))]))
    chunks = client.plan([tokens, QUESTION]).chunks[1:]
    assert [chunk.begin for chunk in chunks[1:]] == [chunk.end for chunk in chunks[:-1]]
    assert sum(chunk.end - chunk.begin for chunk in chunks) == 4000
    lengths = [chunk.end - chunk.begin for chunk in chunks]
    assert all(256 <= length <= 1024 for length in lengths), lengths


def test_forgetting_what_is_not_there_deletes_nothing(client):
    receipt = client.forget("never seen")
    assert (receipt.objects_deleted, receipt.bytes_deleted, receipt.objects_kept_shared) == (0, 0, 0)
    with pytest.raises(BadRequestError, match="document ids"):
        client.forget()


async def test_malformed_messages_get_a_status_never_a_crash(address):
    bad = [
        pb.BlendRequest(),
        pb.BlendRequest(prompt=pb.Prompt(question=pb.Content())),
        pb.BlendRequest(prompt=pb.Prompt(question=pb.Content(text="q"), documents=[pb.Content()])),
        pb.BlendRequest(prompt=pb.Prompt(question=pb.Content(tokens=pb.TokenIds()))),
        *(
            pb.BlendRequest(prompt=pb.Prompt(question=pb.Content(text="q")), options=pb.BlendOptions(**options))
            for options in (
                {"level": 77},
                {"level": common_pb2.LEVEL_LOW},
                {"level": common_pb2.LEVEL_HIGH, "kl_below": 0.1},
                {"kl_below": float("nan")},
                {"kl_below": -1.0},
                {"kl_below": float("inf")},
            )
        ),
    ]
    async with grpc.aio.insecure_channel(address) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        for request in bad:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                async for _ in stub.Blend(request, timeout=30):
                    pass
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/kvquilt.v1.RouterService/ListModels")(b"\xff\xff\xff", timeout=30)
        assert caught.value.code() is not grpc.StatusCode.OK
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/kvquilt.v1.RouterService/NoSuchCall")(b"", timeout=30)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert (await stub.ListModels(pb.ListModelsRequest(), timeout=30)).models


async def test_two_clients_that_store_the_same_document_share_it(address):
    document = Document("shared by two", PASSAGES[9])
    async with AsyncClient(address) as first, AsyncClient(address) as second:

        async def prefetch(client):
            return [item async for item in client.prefetch([document])]

        (a,), (b,) = await asyncio.gather(prefetch(first), prefetch(second))
        assert a.failed == b.failed == 0
        plan = await first.plan([PASSAGES[9], QUESTION])
        assert not any(chunk.miss_reason for chunk in plan.chunks)
        assert (await first.forget("shared by two")).objects_deleted == 1


async def test_a_client_that_goes_away_in_mid_stream_disturbs_nobody(address):
    async with grpc.aio.insecure_channel(address) as channel:
        stub = router_pb2_grpc.RouterServiceStub(channel)
        prompt = pb.Prompt(documents=[pb.Content(text=PASSAGES[0])], question=pb.Content(text=QUESTION))
        call = stub.Blend(pb.BlendRequest(prompt=prompt), timeout=60)
        assert (await call.read()).HasField("header")
        call.cancel()
    async with AsyncClient(address) as client:
        assert (await client.blend([PASSAGES[0], QUESTION])).kv_tokens > 0
