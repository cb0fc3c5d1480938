"""Documents in an order that was never seen: blended KV is used, reported apart, and stays out of vLLM's own cache."""

import pytest

from kvquilt.sync import Client
from kvquilt.types import Document
from tests.vllm.engines import EngineProcess
from tests.vllm.prompts import long_prompt, passage, token_ids

BLENDED = {"extent": "prompt", "policy": "none", "recompute_ratio": 0.0}


@pytest.fixture(scope="module")
def documents(client: Client, model: str) -> list[list[int]]:
    """Stored after the shared prefix alone."""
    chosen = [passage(model, number, 280) for number in (0, 3, 6)]
    stored = client.prefetch(
        [Document(f"blended-{number}", tokens) for number, tokens in enumerate(chosen)],
        shared_prefix=prefix(model),
    )
    assert all(not done.failure_reason for done in stored)
    return chosen


def prefix(model: str) -> list[int]:
    return token_ids(model, "<|im_start|>system\nAnswer from the passages.<|im_end|>\n<|im_start|>user\n")


def question(model: str) -> list[int]:
    return token_ids(model, "\nWhat are the passages about?<|im_end|>\n<|im_start|>assistant\n")


def test_documents_in_a_new_order_are_blended_and_do_not_enter_vllms_cache(
    engine: EngineProcess, model: str, documents: list[list[int]]
) -> None:
    head, asked = prefix(model), question(model)
    prompt = [*head, *documents[2], *documents[0], *documents[1], *asked]
    lengths = [len(documents[number]) for number in (2, 0, 1)]
    plain = engine.plain(prompt, 24)
    engine.forget()
    before = engine.counters()
    said = {"prefix_tokens": len(head), "document_tokens": lengths}
    answer = engine.one(prompt, max_tokens=24, **BLENDED, **said)
    assert answer.told["tokens_blended"] >= 0.5 * len(prompt)
    assert answer.cached_tokens == answer.told["tokens_exact"] < 0.5 * len(prompt)
    now = engine.counters()
    assert now["tokens_blended"] - before["tokens_blended"] == answer.told["tokens_blended"]
    assert now["saves"] == before["saves"], "KV that has seen blended tokens must not be saved"
    assert now["saves_skipped"] > before["saves_skipped"]

    after = engine.one(prompt, max_tokens=24, off=True)
    assert after.token_ids == plain
    assert after.cached_tokens == 0, "vLLM's own cache must not have got blended blocks"
    longer = [*prompt, *answer.token_ids, *asked]
    later = engine.one(longer, off=True)
    assert later.cached_tokens <= len(prompt)
    assert later.token_ids == engine.plain(longer)


def test_known_documents_are_found_in_a_plain_stream(
    engine: EngineProcess, model: str, documents: list[list[int]]
) -> None:
    prompt = [*prefix(model), *documents[1], *documents[2], *question(model)]
    answer = engine.one(prompt, **BLENDED)
    # vLLM computes the question itself: the policy does not look at it.
    assert answer.told["tokens_blended"] + answer.told["tokens_exact"] == len(prompt) - len(question(model))


def test_empty_documents_are_left_out(engine: EngineProcess, model: str, documents: list[list[int]]) -> None:
    head, asked = prefix(model), question(model)
    prompt = [*head, *documents[0], *asked]
    said = {"prefix_tokens": len(head), "document_tokens": [0, len(documents[0]), 0]}
    answer = engine.one(prompt, **BLENDED, **said)
    assert answer.told["reason"] == ""
    assert answer.told["tokens_blended"] + answer.told["tokens_exact"] == len(prompt) - len(asked)


def test_a_prompt_beyond_the_context_is_refused_by_vllm_as_ever(engine: EngineProcess, model: str) -> None:
    with pytest.raises(AssertionError, match="8192"):
        engine.one(long_prompt(model, 1, 8200))
    short = long_prompt(model, 50, 200)
    assert engine.one(short, save=False).token_ids == engine.plain(short)
