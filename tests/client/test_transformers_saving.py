"""What `generate` computed is stored, found by the next turn, and never anything else than what it is."""

import pytest
import torch

from kvquilt import Document
from kvquilt.errors import BadRequestError
from kvquilt.integrations.transformers import Extent, KvquiltCache
from tests.client.generating import answers, generate, plainly, tokens
from tests.router.families import SUPPORTED, tiny

BLOCK = 256
"""What follows the documents is stored in whole blocks of so many tokens."""
TURN, QUESTION = tokens(1, 300), tokens(3, 9)
LOSSLESS = {"level": "lossless"}


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def model(request):
    model = tiny(*SUPPORTED[request.param])
    model.generation_config.eos_token_id = None
    return model


@pytest.fixture
def cache(model, tmp_path):
    with KvquiltCache.local(model, None, tmp_path, profile="", extent=Extent.EXACT) as cache:
        yield cache


def saved(cache, filled, output):
    """Save, and wait; the tokens that were queued."""
    queued = cache.save(filled, output)
    cache.settle()
    assert cache.worker.counters().get("saves_failed", 0) == 0
    return queued


def test_the_next_turn_of_a_conversation_finds_prompt_and_answer(model, cache):
    filled = cache.fill_plain(TURN, **LOSSLESS)
    assert filled.fallback_reason == "nothing_stored"
    output = generate(model, filled, 300)
    assert saved(cache, filled, output) == 599
    longer = [*output[0].tolist(), *QUESTION]
    again = cache.fill_plain(longer, **LOSSLESS)
    assert again.report.tokens_exact == again.past_key_values.get_seq_length() == 599 // BLOCK * BLOCK
    assert answers(model, again) == [plainly(model, [longer])]


def test_what_is_stored_is_not_sent_again(model, cache):
    filled = cache.fill_plain(TURN, **LOSSLESS)
    assert saved(cache, filled, generate(model, filled, 1)) == 300
    again = cache.fill_plain(TURN, **LOSSLESS)
    assert again.stored_tokens == BLOCK
    assert saved(cache, again, generate(model, again, 1)) == 300 - BLOCK
    assert cache.client.status().nodes[0].objects == 1


def test_documents_are_found_by_a_prompt_that_begins_with_them(model, cache):
    first, second = tokens(5, 90), tokens(6, 120)
    filled = cache.fill([first, second, QUESTION], **LOSSLESS)
    saved(cache, filled, generate(model, filled, 4))
    prompt = [first, second, tokens(7, 20)]
    again = cache.fill(prompt, **LOSSLESS)
    assert again.report.tokens_exact == len(first) + len(second)
    assert answers(model, again) == [plainly(model, prompt)]


def test_every_row_of_a_batch_is_saved_without_padding_and_what_follows_its_end(model, cache):
    prompts = [[tokens(8, 260), QUESTION], [tokens(9, 300), QUESTION], [tokens(10, 20)]]
    filled = cache.fill_many(prompts, **LOSSLESS)
    output = generate(model, filled, 6)
    model.generation_config.eos_token_id = [int(output[1, -4])]
    try:
        queued = saved(cache, filled, output)
    finally:
        model.generation_config.eos_token_id = None
    ended = output[:, -6:].eq(output[1, -4]).int()
    kept = [int(row.argmax()) + 1 if row.any() else 6 for row in ended]
    lengths = [sum(map(len, prompt)) for prompt in prompts]
    assert queued == sum(length + answer - 1 for length, answer in zip(lengths, kept, strict=True))
    for prompt in prompts[:2]:
        again = cache.fill(prompt, **LOSSLESS)
        assert again.report.tokens_exact == len(prompt[0])
        assert answers(model, again) == [plainly(model, prompt)]


def test_nothing_is_saved_that_was_computed_over_chunks_of_another_context(model, tmp_path):
    with KvquiltCache.local(model, None, tmp_path, profile="", ungated=True, extent=Extent.PROMPT) as cache:
        documents = [Document(str(seed), tokens(seed, 90)) for seed in (11, 12)]
        list(cache.client.prefetch(documents, level="lossless"))
        objects = cache.client.status().nodes[0].objects
        filled = cache.fill([documents[1].content, documents[0].content, QUESTION], **LOSSLESS)
        assert filled.report.tokens_reused + filled.report.tokens_recomputed > 0
        assert saved(cache, filled, generate(model, filled, 300)) == 0
        assert cache.client.status().nodes[0].objects == objects


def test_another_output_than_that_of_the_fill_is_refused(model, cache):
    filled = cache.fill_plain(TURN, **LOSSLESS)
    output = generate(model, filled, 4)
    for wrong in (output[:, 1:], output.repeat(2, 1), output[0], output + 1):
        with pytest.raises(BadRequestError, match="one answer each"):
            cache.save(filled, wrong)
    with torch.inference_mode():
        named = model.generate(
            **cache.fill_plain(TURN), max_new_tokens=4, do_sample=False, return_dict_in_generate=True
        )
    assert cache.save(filled, named) == 303


def test_a_router_that_is_gone_takes_nothing_and_nobody_waits(model):
    with KvquiltCache(model, None, "127.0.0.1:1") as cache:
        filled = cache.fill_plain(TURN)
        assert filled.fallback_reason == "unavailable"
        assert cache.save(filled, generate(model, filled, 4)) == 0
        assert cache.worker.counters()["calls_skipped"] == 1
