"""Segments that see chosen segments only (Graph-KV), on every family."""

import numpy as np
import pytest
import torch
from transformers.cache_utils import DynamicCache

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine.blocks import BlockStructure
from tests.router.families import CONTEXT, TOKENS, filled, relative

SEGMENTS = ((0, 15), (15, 20), (20, CONTEXT))
ALL = BlockStructure(SEGMENTS, ((), (0,), (0, 1)))
NONE = BlockStructure(SEGMENTS, ((), (), ()))


def computed(engine, ids, visible, positions=None, kv=None):
    kv = engine.empty(TOKENS) if kv is None else filled(engine, kv)
    engine.recompute(ids, kv, np.arange(TOKENS) if positions is None else positions, lambda *_: None, visible=visible)
    return kv


def assert_equal(a, b, limit=1e-4):
    for one, other in zip(a, b, strict=True):
        assert relative(one.keys, other.keys) < limit
        assert relative(one.values, other.values) < limit


def test_segments_that_see_all_before_them_are_causal(family):
    _, engine, ids, reference, _ = family
    assert_equal(computed(engine, ids, ALL).layers, reference.layers)
    assert_equal(computed(engine, ids, BlockStructure((), ())).layers, reference.layers)


def test_segments_that_see_none_are_computed_alone(family):
    model, engine, ids, _, _ = family
    kv = computed(engine, ids, NONE)
    for begin, end in SEGMENTS:
        alone = DynamicCache()
        with torch.inference_mode():
            model.get_decoder()(
                input_ids=torch.from_numpy(ids[begin:end].astype(np.int64))[None],
                position_ids=torch.arange(begin, end)[None],
                past_key_values=alone,
                use_cache=True,
            )
        part = [type(layer)(layer.keys[:, :, begin:end], layer.values[:, :, begin:end]) for layer in kv.layers]
        assert_equal(part, alone.layers)
    # The question is outside of the segments and sees all of them.
    context = [type(layer)(layer.keys[:, :, :CONTEXT], layer.values[:, :, :CONTEXT]) for layer in kv.layers]
    question = [type(layer)(layer.keys[:, :, CONTEXT:], layer.values[:, :, CONTEXT:]) for layer in kv.layers]
    assert_equal(question, engine.prefill(ids[CONTEXT:], context))


def test_a_segment_depends_on_the_prefix_and_its_sources_and_on_nothing_else(family):
    _, engine, ids, _, _ = family
    prefix, segments = 4, ((4, 12), (12, 20), (20, 30), (30, CONTEXT))
    structure = BlockStructure(segments, ((), (), (0,), (1, 2)))
    before = computed(engine, ids, structure)
    last = len(before.layers) - 1
    for changed, moved in (((0, prefix), {0, 1, 2, 3}), (segments[0], {0, 2, 3}), (segments[1], {1, 3})):
        other = ids.copy()
        other[changed[0] : changed[1]] = (other[changed[0] : changed[1]] + 7) % 500
        after = computed(engine, other, structure).layers[last].values
        difference = (after - before.layers[last].values).abs().amax((0, 1, 3))
        for number, (begin, end) in enumerate(segments):
            assert (float(difference[begin:end].max()) > 1e-4) == (number in moved), (changed, number)


def test_recomputing_some_tokens_keeps_to_the_structure(family):
    _, engine, ids, _, _ = family
    whole = computed(engine, ids, NONE)
    damaged = filled(engine, whole)
    positions = np.array([2, 14, 17, 33, *range(CONTEXT, TOKENS)])
    for layer in damaged.layers:
        layer.keys[:, :, positions] = 9.0
        layer.values[:, :, positions] = 9.0
    assert_equal(computed(engine, ids, NONE, positions, damaged).layers, whole.layers)


@pytest.mark.parametrize(
    ("segments", "sources", "message"),
    [
        (((0, 5), (4, 8)), ((), ()), "do not overlap"),
        (((5, 8), (0, 5)), ((), ()), "ascend"),
        (((3, 3),), ((),), "3 to 3"),
        (((0, 5), (5, 8)), ((),), "each of 2 segments"),
        (((0, 5), (5, 8)), ((1,), ()), "segment 0"),
        (((0, 5), (5, 8)), ((), (1,)), "segment 1"),
    ],
)
def test_structures_that_make_no_sense_are_refused(segments, sources, message):
    with pytest.raises(BadRequestError, match=message):
        BlockStructure(segments, sources)
