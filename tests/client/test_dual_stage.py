"""The decode stage: reused tokens are computed again while the model generates."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.dual_stage import DecodeStage, RefreshingProcessor
from kvquilt.integrations.transformers import FilledCache
from kvquilt.types import BlendReport
from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine.observe import observed
from kvquilt_router.policies.refreshing import DecodeRefresher
from tests.router.families import SUPPORTED, tiny

CONTEXT, QUESTION, EXACT = 40, 5, 8


class Ascending:
    """Chooses the earliest tokens: what they see is fresh then, so they become those of a full prefill."""

    def __init__(self, positions, per_step):
        self.waiting = np.asarray(positions)
        self.steps = []
        self._per_step = per_step

    def next(self, attention):
        assert attention.shape[0] > self.waiting.max()
        chosen, self.waiting = self.waiting[: self._per_step], self.waiting[self._per_step :]
        self.steps.append(chosen)
        return chosen


def report_of(positions):
    """What a router says of a blend whose reused tokens are at `positions`."""
    return BlendReport(
        policy="dual-stage",
        recompute_ratio=0.1,
        tokens_exact=EXACT,
        tokens_reused=len(positions),
        tokens_recomputed=0,
        tokens_computed=QUESTION,
        fetched_bytes=0,
        bf16_bytes=0,
        chunks=(),
        seconds={},
        level="high",
        predicted_kl=None,
        gate_refusal="",
        observed_deviation=0.0,
        reused_positions=tuple(positions),
        reused_deviations=(1.0,) * len(positions),
    )


@pytest.fixture(scope="module", params=["llama", "gemma3", "smollm3", "qwen3 moe"])
def case(request):
    """A model, a prompt, and its KV where all tokens from `EXACT` on were computed after another prefix."""
    model = tiny(*SUPPORTED[request.param])
    model.generation_config.eos_token_id = None
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 500, (1, CONTEXT + QUESTION)))
    other = torch.cat([ids[:, :EXACT].flip(1), ids[:, EXACT:]], 1)

    def filled():
        kept = [(k.clone(), v.clone()) for k, v in prefill(model, other)]
        for (keys, values), (true_keys, true_values) in zip(kept, prefill(model, ids), strict=True):
            keys[:, :, :EXACT], values[:, :, :EXACT] = true_keys[:, :, :EXACT], true_values[:, :, :EXACT]
        return ids, DynamicCache([(k[:, :, :-1], v[:, :, :-1]) for k, v in kept])

    return model, filled


def prefill(model, ids):
    cache = DynamicCache()
    with torch.inference_mode():
        model.get_decoder()(ids, past_key_values=cache, use_cache=True)
    return [(layer.keys, layer.values) for layer in cache.layers]


def generate(model, ids, cache, processors, tokens):
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        logits_processor=processors,
        max_new_tokens=tokens,
        do_sample=False,
    )


def distance(cache, expected, tokens):
    """Largest relative distance of a layer's KV from what is expected, over some tokens."""
    return max(
        float((got - want)[:, :, tokens].norm() / want[:, :, tokens].norm())
        for layer, pair in zip(cache.layers, expected, strict=True)
        for got, want in zip((layer.keys, layer.values), pair, strict=True)
    )


@pytest.mark.parametrize("per_step", [1, 7, 100])
def test_refreshing_all_reused_tokens_in_order_gives_the_kv_of_a_full_prefill(case, per_step):
    model, filled = case
    ids, cache = filled()
    expected = prefill(model, ids)
    before = distance(cache, [(k[:, :, :-1], v[:, :, :-1]) for k, v in expected], slice(EXACT, CONTEXT))
    assert before > 0.05
    refresher = Ascending(np.arange(EXACT, CONTEXT), per_step)
    processor = RefreshingProcessor(DecodeStage(model)._engine, cache, refresher)
    steps = -(-(CONTEXT - EXACT) // per_step)
    with observed(model, processor.look):
        generate(model, ids, cache, LogitsProcessorList([processor]), steps)
    assert [len(step) for step in refresher.steps] == [per_step] * (steps - 1) + [
        CONTEXT - EXACT - (steps - 1) * per_step
    ]
    cut = DynamicCache([(layer.keys[:, :, :CONTEXT], layer.values[:, :, :CONTEXT]) for layer in cache.layers])
    assert distance(cut, [(k[:, :, :CONTEXT], v[:, :, :CONTEXT]) for k, v in expected], slice(0, CONTEXT)) < 1e-4


def test_each_step_refreshes_three_tokens_and_leaves_all_others(case):
    model, filled = case
    ids, cache = filled()
    before = [(layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
    positions = tuple(range(EXACT, CONTEXT))
    report = report_of(positions)
    with DecodeStage(model).refreshing(FilledCache(ids, cache, report, "")) as processors:
        output = generate(model, ids, cache, processors, 4)
    assert output.shape[1] == ids.shape[1] + 4
    changed = set()
    for layer, (keys, _) in zip(cache.layers, before, strict=True):
        same = (layer.keys[:, :, : keys.shape[2]] == keys).all(dim=(0, 1, 3))
        changed |= set(torch.nonzero(~same)[:, 0].tolist())
    assert len(changed) == 4 * 3
    assert changed <= set(positions)
    assert model.config._attn_implementation == "sdpa"


def test_the_attention_that_chooses_is_that_of_the_steps_own_token(case):
    model, filled = case
    ids, cache = filled()
    seen = []

    class Recording(Ascending):
        def next(self, attention):
            seen.append(attention)
            return np.empty(0, np.int64)

    processor = RefreshingProcessor(DecodeStage(model)._engine, cache, Recording([EXACT], 1))
    reference = DynamicCache([(layer.keys.clone(), layer.values.clone()) for layer in cache.layers])
    with observed(model, processor.look):
        generate(model, ids, cache, LogitsProcessorList([processor]), 1)
    model.set_attn_implementation("eager")
    with torch.inference_mode():
        output = model(ids[:, -1:], past_key_values=reference, output_attentions=True)
    model.set_attn_implementation("sdpa")
    expected = torch.stack(output.attentions).sum((0, 1, 2, 3)).numpy()
    np.testing.assert_allclose(seen[0], expected, rtol=1e-3, atol=1e-4)


def test_several_sequences_and_other_caches_are_refused(case):
    model, filled = case
    ids, cache = filled()
    report = report_of((EXACT,))
    stage = DecodeStage(model)
    with stage.refreshing(FilledCache(ids, cache, report, "")) as processors:
        with pytest.raises(BadRequestError, match="one sequence"):
            processors(ids.repeat(2, 1), torch.zeros(2, 500))
        with pytest.raises(BadRequestError, match="past_key_values"):
            generate(model, ids, DynamicCache(), processors, 1)
    with stage.refreshing(FilledCache(ids, DynamicCache(), None, "unavailable")) as none:
        assert len(none) == 0


@given(st.integers(0, 40), st.integers(1, 6), st.integers(0, 99))
def test_every_reused_token_is_refreshed_once_so_many_a_step_the_highest_first(count, per_step, seed):
    rng = np.random.default_rng(seed)
    positions = np.sort(rng.choice(80, count, replace=False))
    deviations = rng.random(count).astype(np.float32)
    refresher = DecodeRefresher(positions, deviations, tokens_per_step=per_step)
    scores = np.zeros(80, np.float32)
    done = []
    while refresher.waiting.size:
        attention = rng.random(80).astype(np.float32)
        scores[positions] = attention[positions] * deviations
        waiting = refresher.waiting
        chosen = refresher.next(attention)
        assert len(chosen) == min(per_step, len(waiting))
        assert (np.diff(chosen) > 0).all()
        if refresher.waiting.size:
            assert scores[chosen].min() >= scores[refresher.waiting].max()
        done += chosen.tolist()
    assert sorted(done) == positions.tolist()
    assert refresher.next(np.ones(80, np.float32)).size == 0


@pytest.mark.parametrize(
    ("positions", "deviations", "per_step", "words"),
    [
        ([1, 2], [1.0], 3, "one deviation"),
        ([2, 1], [1.0, 1.0], 3, "ascend"),
        ([-1], [1.0], 3, "ascend"),
        ([1], [float("nan")], 3, "finite"),
        ([1], [-1.0], 3, "at least 0"),
        ([1], [1.0], 0, "at least 1 token"),
    ],
)
def test_what_cannot_be_refreshed_is_refused(positions, deviations, per_step, words):
    with pytest.raises(BadRequestError, match=words):
        DecodeRefresher(positions, deviations, tokens_per_step=per_step)
