"""Whatever is wrong with the cache, a request completes with the text that vLLM alone gives, and counters tell."""

import time

import pytest

from kvquilt.demo.server import serving
from tests.vllm.asking import EXACT, again
from tests.vllm.conftest import LOSSLESS
from tests.vllm.engines import Ask, EngineProcess
from tests.vllm.prompts import long_prompt
from tests.vllm.road import Road

_TRIES = 40


def grown(engine: EngineProcess, before: dict[str, int]) -> dict[str, int]:
    now = engine.counters()
    return {name: now[name] - count for name, count in before.items() if now[name] != count}


@pytest.fixture
def prompt(model: str) -> list[int]:
    return long_prompt(model, 40, 700)


@pytest.fixture
def plain(engine: EngineProcess, prompt: list[int]) -> list[int]:
    """vLLM's own answer."""
    tokens = engine.plain(prompt)
    engine.forget()
    return tokens


def test_a_request_that_is_switched_off_is_left_alone(
    engine: EngineProcess, prompt: list[int], plain: list[int]
) -> None:
    before = engine.counters()
    answer = engine.one(prompt, off=True)
    assert answer.token_ids == plain
    assert answer.told["reason"] == "off"
    assert grown(engine, before) == {"requests": 1, "requests_off": 1}


@pytest.mark.parametrize(
    ("said", "salt", "reason"),
    [
        ({"documents": ["a text that the prompt has not"]}, None, "document_not_found"),
        ({"documents": [5]}, None, "bad_request"),
        ({"document_tokens": [5000]}, None, "bad_request"),
        ({"document_tokens": [-1]}, None, "bad_request"),
        ({"level": "finest"}, None, "bad_request"),
        ({"max_kl": 0}, None, "bad_request"),
        ({}, "somebody's", "unknown_namespace"),
    ],
    ids=str,
)
def test_what_a_request_says_wrongly_costs_it_the_cache_and_nothing_else(
    engine: EngineProcess, prompt: list[int], plain: list[int], said: dict[str, object], salt: str | None, reason: str
) -> None:
    before = engine.counters()
    answer = engine.one(prompt, salt=salt, **said)
    assert answer.token_ids == plain
    assert answer.told["reason"] == reason
    assert grown(engine, before) == {"requests": 1, "requests_refused": 1}


def test_a_router_that_is_down_is_not_missed(
    engine: EngineProcess, to_router: Road, prompt: list[int], plain: list[int]
) -> None:
    to_router.lead("")
    before = engine.counters()
    for _ in range(2):
        answer = engine.one(prompt, save=False)
        assert answer.token_ids == plain
        assert answer.told["reason"] in ("unavailable", "router_lost", "deadline", "tls_handshake")
        engine.forget()
    assert grown(engine, before) == {"requests": 2, "plans_nothing": 2}


def test_an_aborted_request_leaves_the_engine_as_it_was(
    engine: EngineProcess, prompt: list[int], plain: list[int]
) -> None:
    for steps in range(4):
        engine.abandon(Ask(prompt, {"save": False}), steps)
        engine.forget()
    # Exact, for what other tests stored has passages of it.
    assert engine.one(prompt, save=False, **EXACT).token_ids == plain


@pytest.fixture
def stored(engine: EngineProcess, model: str) -> tuple[list[int], list[int]]:
    """A prompt whose KV is stored, and vLLM's own answer to it."""
    prompt = long_prompt(model, 41, 1300)
    plain = engine.plain(prompt)
    engine.forget()
    engine.one(prompt, **EXACT)
    again(engine, prompt, 1024, save=False)
    engine.forget()
    return prompt, plain


def test_a_router_that_dies_in_the_middle_of_a_load_costs_the_load(
    engine: EngineProcess, to_router: Road, router: str, stored: tuple[list[int], list[int]]
) -> None:
    prompt, plain = stored
    before = engine.counters()
    to_router.bytes_left = 8 << 20  # of 28 MB
    answer = engine.one(prompt, **EXACT, save=False)
    assert answer.token_ids == plain
    assert answer.told["tokens_exact"] == answer.cached_tokens == 0
    assert answer.told["reason"] != ""
    now = grown(engine, before)
    assert (now["loads"], now["loads_failed"]) == (1, 1)
    assert "faults" not in now

    to_router.lead(router)
    assert again(engine, prompt, 1024, save=False).token_ids == plain


def test_a_router_that_is_slower_than_the_deadline_costs_the_load(
    engine: EngineProcess, to_router: Road, router: str, stored: tuple[list[int], list[int]]
) -> None:
    prompt, plain = stored
    before = engine.counters()
    to_router.pause = 0.5  # for each 64 KiB of 28 MB; a load may take ten seconds
    answer = engine.one(prompt, **EXACT, save=False)
    assert answer.token_ids == plain
    assert answer.told["reason"] == "deadline"
    assert grown(engine, before)["loads_failed"] == 1
    to_router.lead(router)
    assert again(engine, prompt, 1024, save=False).token_ids == plain


def test_a_router_with_the_model_in_another_type_is_not_used(
    engine: EngineProcess,
    to_router: Road,
    stored: tuple[list[int], list[int]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    prompt, plain = stored
    before = engine.counters()
    with serving(tmp_path_factory.mktemp("float32"), ("router.dtype=float32", *LOSSLESS[1:])) as other:
        to_router.lead(other)
        for _ in range(_TRIES):  # the way to a lost router is probed in the background
            answer = engine.one(prompt, save=False)
            assert answer.token_ids == plain
            engine.forget()
            if answer.told["reason"] == "unknown_model":
                break
            time.sleep(0.3)
        assert answer.told["reason"] == "unknown_model"
    assert "loads" not in grown(engine, before)
