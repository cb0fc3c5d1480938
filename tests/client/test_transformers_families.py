"""Fills for `generate`, over every family of models that the engine takes."""

import pytest

from kvquilt import Document
from kvquilt.integrations.transformers import Extent, KvquiltCache
from tests.client.generating import answers, plainly, tokens
from tests.router.families import SUPPORTED, tiny

FIRST, SECOND = tokens(1, 70), tokens(2, 70)
PROMPTS = [[FIRST, tokens(3, 9)], [FIRST, SECOND, tokens(4, 3)], [tokens(5, 31)]]
"""Of several lengths; most of them longer than the windows of the models that have one."""


@pytest.fixture(scope="module", params=SUPPORTED, ids=lambda name: name.replace(" ", "-"))
def filling(request, tmp_path_factory):
    model = tiny(*SUPPORTED[request.param])
    model.generation_config.eos_token_id = None
    with KvquiltCache.local(model, None, tmp_path_factory.mktemp("store"), profile="", warm_up_passages=0) as cache:
        (done,) = cache.client.prefetch([Document("first", FIRST)], level="lossless")
        assert done.stored == 1
        yield model, cache


@pytest.mark.parametrize("extent", [Extent.PROMPT, Extent.EXACT])
def test_a_chunk_in_its_exact_context_gives_the_tokens_of_plain_generate(filling, extent):
    model, cache = filling
    filled = cache.fill(PROMPTS[0], level="lossless", extent=extent)
    assert filled.report.tokens_exact == len(FIRST)
    assert filled.past_key_values.get_seq_length() == len(FIRST)
    assert answers(model, filled) == [plainly(model, PROMPTS[0])]


@pytest.mark.parametrize("extent", [Extent.PROMPT, Extent.EXACT])
def test_a_batch_gives_the_tokens_that_its_prompts_give_one_by_one(filling, extent):
    model, cache = filling
    filled = cache.fill_many(PROMPTS, level="lossless", extent=extent)
    assert [report and report.tokens_exact for report in filled.reports][:2] == [len(FIRST)] * 2
    assert (filled.fallback_reasons[2] != "") == (extent is Extent.EXACT)
    assert filled.past_key_values.get_seq_length() == filled.input_ids.shape[1] - 1
    assert answers(model, filled) == [plainly(model, prompt) for prompt in PROMPTS]
