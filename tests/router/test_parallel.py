"""Chunks side by side (APE), on every family."""

import itertools

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine import Engine
from kvquilt_router.engine.parallel import ParallelAttention
from tests.router.families import SUPPORTED, tiny

PREFIX, LENGTHS, QUESTION = 6, (11, 4, 9), 10


def parts(engine, ids):
    prefix = engine.prefill(ids[:PREFIX])
    bounds = np.cumsum([PREFIX, *LENGTHS])
    chunks = [engine.prefill(ids[begin:end], prefix) for begin, end in itertools.pairwise(bounds)]
    return prefix, chunks, ids[bounds[-1] : bounds[-1] + QUESTION]


def assert_close(got, expected, limit=1e-4):
    assert float((got - expected).abs().max()) < limit * float(expected.abs().max())


def test_one_chunk_without_temperature_and_scale_is_an_exact_prefill(family):
    _, engine, ids, _, _ = family
    for begin in (0, PREFIX):
        prefix = engine.prefill(ids[:begin]) if begin else []
        chunk = engine.prefill(ids[begin:50], prefix)
        with torch.inference_mode():
            exact = engine.score(ids[50:], engine.prefill(ids[:50]))
        assert_close(engine.score_parallel(ids[50:], prefix, [chunk], 1.0, 1.0), exact)


def test_without_temperature_and_scale_it_is_plain_attention_over_the_same_keys(family):
    model, engine, ids, _, _ = family
    prefix, chunks, question = parts(engine, ids)
    cache = DynamicCache(
        [
            (torch.cat([one.keys for one in layers], 2), torch.cat([one.values for one in layers], 2))
            for layers in zip(prefix, *chunks, strict=True)
        ]
    )
    positions = PREFIX + max(LENGTHS) + torch.arange(QUESTION)
    keys = torch.cat([torch.arange(PREFIX), *(torch.arange(PREFIX, PREFIX + length) for length in LENGTHS), positions])
    away = positions[:, None] - keys[None]
    masks = {}
    for kind, window in zip(("sliding_attention", "full_attention"), engine.traits.windows, strict=False):
        seen = ((away >= 0) & (away < (window or 10**6)))[None, None]
        additive = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        masks[kind] = additive if model.config._attn_implementation == "eager" else seen
    with torch.inference_mode():
        logits = model(
            torch.from_numpy(question.astype(np.int64))[None],
            position_ids=positions[None],
            attention_mask=masks if len(set(engine.traits.windows)) > 1 else masks["full_attention"],
            past_key_values=cache,
            use_cache=True,
        ).logits[0]
    got = engine.score_parallel(question, prefix, chunks, 1.0, 1.0)
    assert_close(got, logits.log_softmax(-1))
    sharper = engine.score_parallel(question, prefix, chunks, 0.5, 0.8)
    assert float((sharper - got).abs().max()) > 1e-3
    assert_close(engine.score_parallel(question, prefix, chunks[::-1], 0.5, 0.8), sharper)  # side by side has no order


@pytest.mark.parametrize(("temperature", "scale"), [(1.0, 1.0), (0.9, 0.9), (0.2, 1.0), (0.5, 3.0)])
def test_the_parts_are_merged_by_the_log_sum_exp_of_the_paper(temperature, scale):
    torch.manual_seed(0)
    tokens, begin, end = 20, 5, 14
    scores, values = 3 * torch.randn(2, 3, 4, tokens), torch.randn(2, 1, tokens, 8)
    mask = torch.zeros(4, tokens).masked_fill(torch.rand(4, tokens) < 0.2, torch.finfo(torch.float32).min)
    mask[3, begin:end] = torch.finfo(torch.float32).min  # a query that sees no chunk: its window is over
    sinks = torch.randn(2, 3, 4, 1)
    got = ParallelAttention(begin, end, temperature, scale).weights(scores, mask, sinks) @ values
    seen = mask == 0
    for head, group, row in np.ndindex(2, 3, 4):
        sums, outputs = [], []
        for inside in (True, False):
            these = [t for t in range(tokens) if seen[row, t] and (begin <= t < end) == inside]
            logits = scores[head, group, row, these] / (temperature if inside else 1.0)
            if not inside:
                logits = torch.cat([logits, sinks[head, group, row]])
            padded = torch.cat([values[head, 0, these], torch.zeros(0 if inside else 1, 8)])
            outputs.append(logits.softmax(-1) @ padded)
            sums.append(logits.logsumexp(-1) * (scale * temperature if inside else 1.0))
        shares = torch.stack(sums).exp() / torch.stack(sums).exp().sum()
        expected = shares[0] * outputs[0] + shares[1] * outputs[1]
        torch.testing.assert_close(got[head, group, row], expected, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_read_in_parallel_is_refused():
    engine = Engine(tiny(*SUPPORTED["llama"]))
    prefix, chunks, question = parts(engine, np.arange(3, 60).astype(np.uint32))
    for temperature, scale in ((0.0, 1.0), (1.0, -1.0), (float("nan"), 1.0), (1.0, float("inf"))):
        with pytest.raises(BadRequestError, match="above 0"):
            engine.score_parallel(question, prefix, chunks, temperature, scale)
    with pytest.raises(BadRequestError, match="one chunk or more"):
        engine.score_parallel(question, prefix, [], 0.9, 0.9)
