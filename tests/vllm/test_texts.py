"""Documents named by their texts; how long what is saved stays; requests that leave nothing behind."""

import pytest

from kvquilt.sync import Client
from kvquilt.types import Document
from tests.stack import eventually
from tests.vllm.asking import again, saved
from tests.vllm.engines import EngineProcess
from tests.vllm.prompts import long_prompt, passage, text, token_ids

BLENDED = {"extent": "prompt", "policy": "none", "recompute_ratio": 0.0}


@pytest.fixture(scope="module")
def texts(client: Client, model: str) -> list[str]:
    """Stored after the shared prefix alone."""
    chosen = [text(model, passage(model, number, 280)) + ".\n\n" for number in (2, 5)]
    stored = client.prefetch(
        [Document(f"texts-{number}", content) for number, content in enumerate(chosen)], shared_prefix=head(model)
    )
    assert all(not done.failure_reason for done in stored)
    return chosen


def head(model: str) -> list[int]:
    return token_ids(model, "<|im_start|>system\nAnswer shortly.<|im_end|>\n<|im_start|>user\n")


def test_documents_are_found_by_their_texts_and_blended(engine: EngineProcess, model: str, texts: list[str]) -> None:
    asked = "Question: what is told here?<|im_end|>\n<|im_start|>assistant\n"
    prompt = [*head(model), *token_ids(model, texts[1] + texts[0] + asked)]
    answer = engine.one(prompt, documents=[texts[1], "", texts[0]], **BLENDED)
    assert answer.told["reason"] == ""
    assert answer.told["tokens_blended"] > 400


def test_a_document_that_is_not_in_the_prompt_is_told_and_the_prompt_computed(
    engine: EngineProcess, model: str, texts: list[str]
) -> None:
    prompt = [*head(model), *token_ids(model, texts[0] + "Question: what?")]
    plain = engine.plain(prompt)
    engine.forget()
    before = engine.counters()
    answer = engine.one(prompt, documents=[texts[1]])
    assert answer.told["reason"] == "document_not_found"
    assert answer.token_ids == plain
    assert engine.counters()["requests_refused"] == before["requests_refused"] + 1


def test_what_is_saved_with_a_time_to_live_goes(engine: EngineProcess, model: str) -> None:
    prompt = long_prompt(model, 70, 600)
    saved(engine, prompt, ttl=10.0)
    again(engine, prompt, 256, save=False)

    def gone() -> bool:
        engine.forget()
        return bool(engine.one(prompt, extent="exact", save=False).told["tokens_exact"] == 0)

    eventually(gone)


def test_a_miss_has_a_name_for_why_and_a_transient_request_leaves_nothing(
    engine: EngineProcess, client: Client, model: str
) -> None:
    prompt = long_prompt(model, 71, 400)
    before = engine.counters()
    quiet = engine.one(prompt, extent="exact", transient=True)
    assert quiet.told["reason"] in ("nothing_stored", "too_short")
    assert "request_id" not in quiet.told
    assert engine.counters()["saves"] == before["saves"]
    engine.forget()
    answer = engine.one(prompt, extent="exact", save=False)
    assert answer.told["tokens_exact"] == 0
    assert {chunk.outcome for chunk in client.why(answer.told["request_id"]).chunks} >= {"computed"}
