"""Whatever happens to the cache, `generate` completes with the right tokens, and the reason is told."""

import asyncio
import time

import pytest
import torch

from kvquilt import Client, Document
from kvquilt.errors import BadRequestError
from kvquilt.integrations.transformers import Extent, KvquiltCache
from kvquilt_router.engine.model import prepare
from tests.client.generating import answers, plainly, tokens
from tests.proxy import throttle, valve
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, in_thread, serve

FIRST, QUESTION = tokens(1, 700), tokens(3, 9)
PROMPT = [FIRST, QUESTION]


def loaded(family="llama", dtype=torch.float32, **extra):
    kind, settings = SUPPORTED[family]
    model = tiny(kind, {**settings, **extra}, dtype)
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture(scope="module")
def model():
    return loaded()


@pytest.fixture(scope="module")
def router(model, tmp_path_factory):
    with serve(prepare(model, None, "tiny"), tmp_path_factory.mktemp("store"), warm_up_passages=0) as address:
        with Client(address) as client:
            (done,) = client.prefetch([Document("first", FIRST)], level="lossless")
            assert done.failed == 0
        yield address


def cached(model, router, **options):
    return KvquiltCache(model, None, router, extent=Extent.PROMPT, **options)


def check(model, cache, reasons, prompt=PROMPT):
    """A fill falls back for one of some reasons, and the answer is the model's own."""
    filled = cache.fill(prompt, level="lossless")
    assert filled.fallback_reason in reasons
    assert filled.report is None
    assert answers(model, filled) == [plainly(model, prompt)]


def test_the_router_helps_where_nothing_is_wrong(model, router):
    with cached(model, router) as cache:
        filled = cache.fill(PROMPT, level="lossless")
        assert filled.report.tokens_exact == len(FIRST)
        assert answers(model, filled) == [plainly(model, PROMPT)]


def test_a_router_that_is_down_at_the_start_is_used_when_it_comes(model, tmp_path):
    address = f"unix:{tmp_path}/router"
    with cached(model, address) as cache:
        check(model, cache, {"unavailable"})
        check(model, cache, {"router_lost"})
        with serve(prepare(model, None, "tiny"), tmp_path / "store", host=address):
            eventually(lambda: cache.worker.counters().get("router_found"))
            assert cache.fill(PROMPT).report.tokens_computed == len(FIRST) + len(QUESTION)


@pytest.mark.parametrize(("then", "reasons"), [("close", {"unavailable"}), ("hang", {"deadline"})])
def test_a_router_that_dies_or_stops_in_the_middle_of_a_load(model, router, then, reasons):
    whole = cached(model, router)
    with whole:
        whole.fill(PROMPT, level="lossless")
        size = whole.worker.counters()["bytes_loaded"]
    with (
        in_thread(lambda: throttle(router, 1 << 12, 0, size // 2, then)) as through,
        cached(model, through, deadline=2.0) as cache,
    ):
        check(model, cache, reasons)
        assert cache.worker.counters()["loads_failed"] == 1


def test_a_router_that_says_nothing_costs_one_deadline_and_then_nothing(model, router):
    with in_thread(lambda: _closed_valve(router)) as through, cached(model, through, deadline=1.0) as cache:
        began = time.monotonic()
        check(model, cache, {"deadline"})
        assert time.monotonic() - began >= 1.0
        check(model, cache, {"router_lost"})
        assert cache.worker.counters()["calls_skipped"] == 1


@pytest.mark.parametrize("other", [{"rms_norm_eps": 1e-3}, {"dtype": torch.bfloat16}], ids=["model", "dtype"])
def test_a_router_of_another_model_or_type_is_not_used(router, other):
    model = loaded(**other)
    with cached(model, router) as cache:
        check(model, cache, {"unknown_model"})


def test_a_prompt_beyond_the_models_context_is_left_to_the_model(router, tmp_path):
    model = loaded(max_position_embeddings=512)
    with KvquiltCache.local(model, None, tmp_path, profile="", extent=Extent.PROMPT) as cache:
        filled = cache.fill(PROMPT)
        assert filled.fallback_reason == "prompt_too_long"
        assert answers(model, filled) == [plainly(model, PROMPT)]


def test_empty_documents_are_left_out(model, router):
    with cached(model, router) as cache:
        filled = cache.fill([[], FIRST, [], QUESTION], level="lossless")
        assert filled.report.tokens_exact == len(FIRST)
        assert answers(model, filled) == [plainly(model, PROMPT)]
        only = cache.fill([[], QUESTION])
        assert answers(model, only) == [plainly(model, [QUESTION])]


def test_some_of_a_batch_may_fall_back(model, router):
    with cached(model, router) as cache:
        served = cache.worker.model
    model.config.max_position_embeddings, before = 300, model.config.max_position_embeddings
    try:
        with cached(model, router, served=served) as cache:
            prompts = [PROMPT, [tokens(7, 100), QUESTION]]
            filled = cache.fill_many(prompts)
            assert filled.fallback_reasons == ("prompt_too_long", "")
            assert answers(model, filled) == [plainly(model, prompt) for prompt in prompts]
            none = cache.fill_many([PROMPT, [tokens(8, 400), QUESTION]])
            assert none.past_key_values.get_seq_length() == 0
            assert answers(model, none)[0] == plainly(model, PROMPT)
    finally:
        model.config.max_position_embeddings = before


@pytest.mark.parametrize(
    ("segments", "options", "words"),
    [
        ([], {}, "the question last"),
        ("text", {}, "bare string"),
        ([FIRST, []], {}, "empty"),
        ([FIRST, "text"], {}, "no tokenizer"),
        ([b"bytes", QUESTION], {}, "token ids"),
        ([[-1], QUESTION], {}, "token ids in 0"),
        (PROMPT, {"policy": "nope"}, "first-tokens"),
        (PROMPT, {"recompute_ratio": float("nan")}, "0..1"),
        (PROMPT, {"max_kl": 0.0}, "above 0"),
        (PROMPT, {"level": "huge"}, "lossless"),
        (PROMPT, {"polciy": "none"}, "polciy"),
    ],
)
def test_what_no_cache_could_fill_is_the_callers_mistake(model, router, segments, options, words):
    with cached(model, router) as cache:
        with pytest.raises(BadRequestError, match=words):
            cache.fill(segments, **options)
        with pytest.raises(BadRequestError, match=words if segments else "prompts"):
            cache.fill_many([PROMPT, segments] if segments else segments, **options)


def test_plain_prompts_are_checked_too(model, router):
    with cached(model, router) as cache:
        with pytest.raises(BadRequestError, match="empty"):
            cache.fill_plain([])
        with pytest.raises(BadRequestError, match="chat template"):
            cache.fill_chat([{"role": "user", "content": "Hello"}])
        filled = cache.fill_plain([*FIRST, *QUESTION])
        assert answers(model, filled) == [plainly(model, PROMPT)]


def _closed_valve(router):
    return valve(router, asyncio.Event())
