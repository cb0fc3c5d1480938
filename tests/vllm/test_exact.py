"""Exact hits: what comes back from kvquilt is what vLLM computed, and its tokens are the same.

The prompts have passages in common, which the router would blend if it were let.
"""

from tests.vllm.asking import EXACT, again, saved
from tests.vllm.engines import Ask, EngineProcess
from tests.vllm.prompts import long_prompt, token_ids


def test_a_prompt_that_vllm_computed_comes_back_with_the_same_tokens(engine: EngineProcess, model: str) -> None:
    prompt = long_prompt(model, 1, 1300)
    plain = engine.plain(prompt, 24)
    saved(engine, prompt)
    answer = again(engine, prompt, 1024, max_tokens=24)
    assert answer.token_ids == plain
    assert answer.cached_tokens == answer.told["tokens_exact"]
    assert answer.told["tokens_blended"] == 0


def test_a_next_turn_finds_the_answer_too(engine: EngineProcess, model: str) -> None:
    first = long_prompt(model, 2, 600)
    answer = saved(engine, first, max_tokens=300)
    turn = [*first, *answer.token_ids, *token_ids(model, "\n\nAnd what follows from that, in one sentence?")]
    plain = engine.plain(turn)
    # All of the prompt and some of the answer: what is no whole chunk yet is not stored.
    loaded = again(engine, turn, len(first) + 40)
    assert loaded.token_ids == plain


def test_several_requests_at_once_each_get_their_own(engine: EngineProcess, model: str) -> None:
    prompts = [long_prompt(model, seed, 500 + 70 * seed) for seed in (3, 4, 5)]
    plain = [engine.plain(prompt) for prompt in prompts]
    for prompt in prompts:
        saved(engine, prompt)
        again(engine, prompt, 256)
    fresh = long_prompt(model, 6, 400)
    plain.append(engine.plain(fresh))
    engine.forget()
    answers = engine.ask(*(Ask(prompt, EXACT) for prompt in (*prompts, fresh)))
    assert [answer.token_ids for answer in answers] == plain
    assert [answer.told["tokens_exact"] >= 256 for answer in answers] == [True, True, True, False]


def test_a_request_that_is_alone_is_waited_for_without_steps_that_compute_nothing(
    engine: EngineProcess, model: str
) -> None:
    prompt = long_prompt(model, 8, 700)
    steps, _ = engine.steps(Ask(prompt, EXACT, max_tokens=1))
    assert steps == 2, "the plan was there before the first of those that compute the prompt"
    engine.forget()
    again(engine, prompt, 512)
    engine.forget()
    steps, seconds = engine.steps(Ask(prompt, EXACT, max_tokens=1))
    assert steps <= 2 + seconds, "one for the load, and another for each second that it takes; one for the rest"


def test_what_vllm_has_itself_is_not_fetched(engine: EngineProcess, model: str) -> None:
    prompt = long_prompt(model, 7, 1300)
    plain = engine.plain(prompt)
    saved(engine, prompt)
    again(engine, prompt, 1024)
    engine.forget()
    engine.one(prompt[:400], off=True)
    answer = engine.one(prompt, **EXACT)
    assert answer.token_ids == plain
    assert answer.told["tokens_exact"] == answer.cached_tokens - 384  # three of vLLM's blocks
