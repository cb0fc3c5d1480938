"""HF Transformers with the real model, with text and a chat template, and no server."""

import pytest

from kvquilt.integrations.transformers import Extent, KvquiltCache
from tests.texts import PASSAGES, QUESTION


@pytest.fixture
def cache(reference, tmp_path):
    with KvquiltCache.local(
        reference.model, reference.tokenizer, tmp_path, profile="", level="lossless", extent=Extent.EXACT
    ) as cache:
        yield cache


def answer(reference, filled, tokens=12):
    """Prompt and answer, of each prompt."""
    return reference.model.generate(**filled, max_new_tokens=tokens, do_sample=False)


def alone(reference, prompt_ids, tokens=12):
    return reference.greedy(prompt_ids, None, tokens)


def test_a_conversation_goes_on_where_it_was(cache, reference):
    messages = [{"role": "user", "content": "".join(PASSAGES[:3]) + QUESTION}]
    filled = cache.fill_chat(messages)
    assert filled.fallback_reason == "nothing_stored"
    output = answer(reference, filled)
    assert output[0, filled.input_ids.shape[1] :].tolist() == alone(reference, filled.input_ids)
    cache.save(filled, output)
    cache.settle()
    said = reference.tokenizer.decode(output[0, filled.input_ids.shape[1] :], skip_special_tokens=True)
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "Say it again."}]
    again = cache.fill_chat(messages)
    assert again.report.tokens_exact >= 256
    output = answer(reference, again)
    assert output[0, again.input_ids.shape[1] :].tolist() == alone(reference, again.input_ids)


def test_a_batch_of_real_prompts_gives_what_each_gives_alone(cache, reference):
    prompts = [[PASSAGES[0], QUESTION], [PASSAGES[1], PASSAGES[2], QUESTION], ["Hello."]]
    first = cache.fill(prompts[0])
    cache.save(first, answer(reference, first))
    cache.settle()
    filled = cache.fill_many(prompts)
    assert filled.reports[0].tokens_exact > 0
    new = answer(reference, filled)[:, filled.input_ids.shape[1] :]
    for row, prompt in zip(new.tolist(), filled.prompts, strict=True):
        expected = alone(reference, prompt.input_ids)
        assert row[: len(expected)] == expected
