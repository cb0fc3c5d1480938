"""Variants of chunks: what a full prefill computes there, and how far it depends on what precedes it."""

import numpy as np
import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import Namespace
from kvquilt_codec.levels import LOSSLESS_POINT
from kvquilt_codec.types import VariantKind
from kvquilt_router.computing import ContextCache, VariantComputer, VariantJob
from kvquilt_router.engine.kv import LayerTensors
from tests.router.assemblies import engine_of
from tests.router.families import own_attention
from tests.router.test_planning import HIGH, planner

PREFIX, FIRST, SECOND, CHUNK = (np.random.default_rng(0).integers(3, 500, n).astype(np.uint32) for n in (7, 40, 30, 50))
FAMILIES = ["llama", "gemma3", "qwen3"]


def job_of(sources=(FIRST, SECOND), kind=VariantKind.PAIR, point=LOSSLESS_POINT, prefix=PREFIX):
    ref = planner().chunk(CHUNK, point, 1, 500)
    return VariantJob(ref, kind, prefix, tuple(sources))


def computer_of(family="llama", **options):
    return VariantComputer(engine_of(family), planner(), **options)


def in_full(family, *before):
    """The chunk's KV out of one prefill of everything."""
    engine = engine_of(family)
    begin = sum(map(len, before))
    layers = engine.prefill(np.concatenate([*before, CHUNK]))
    cut = [LayerTensors(layer.keys[:, :, begin:], layer.values[:, :, begin:]) for layer in layers]
    return engine.to_chunk(CHUNK, cut, begin, unrotate=False)


def close(ours, theirs):
    assert ours.rotated_from == theirs.rotated_from
    for a, b in zip((*ours.keys, *ours.values), (*theirs.keys, *theirs.values), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_variant_is_what_a_full_prefill_of_its_context_computes_there(family):
    computer = computer_of(family)
    for sources in ((FIRST, SECOND), (FIRST,), ()):
        computed = computer.compute(job_of(sources))
        close(computed.kv, in_full(family, PREFIX, *sources))
        assert [source.tokens for source in computed.sources] == [len(source) for source in sources]
    close(computer.compute(job_of((FIRST,), prefix=PREFIX[:0])).kv, in_full(family, FIRST))


def test_keys_are_free_of_position_but_for_lossless_ones():
    computer = computer_of()
    assert computer.compute(job_of(point=HIGH)).kv.rotated_from is None
    assert computer.compute(job_of()).kv.rotated_from == len(PREFIX) + len(FIRST) + len(SECOND)


@pytest.mark.parametrize("family", FAMILIES)
def test_dependence_is_the_distance_of_the_values_from_those_after_the_prefix_alone(family):
    computed = computer_of(family).compute(job_of())
    layout = engine_of(family).traits.layout
    heads = max(shape.kv_heads for shape in layout.layers)
    depends = computed.side.dependence
    assert depends.shape == (len(layout.layers), heads, len(CHUNK))
    ours, base = in_full(family, PREFIX, FIRST, SECOND), in_full(family, PREFIX)
    for layer in range(len(layout.layers)):
        distance = np.linalg.norm(ours.values[layer] - base.values[layer], axis=2).T
        expected = distance / np.linalg.norm(ours.values[layer], axis=2).mean()
        np.testing.assert_allclose(depends[layer], expected, atol=1e-3)
    assert depends[0].max() < 1e-4, "values of the first layer hang on their own token alone"
    assert depends[1:].mean() > 0.01


def test_what_was_computed_without_other_text_has_no_dependence():
    assert computer_of().compute(job_of((), VariantKind.BASE)).side is None
    assert computer_of().compute(job_of(kind=VariantKind.EXACT)).side is None


class Counting:
    """Counts the tokens that an engine computes."""

    def __init__(self, engine, monkeypatch):
        self.tokens = 0
        prefill = engine.prefill

        def counted(token_ids, prefix=()):
            self.tokens += len(token_ids)
            return prefill(token_ids, prefix)

        monkeypatch.setattr(engine, "prefill", counted)

    def taken(self):
        tokens, self.tokens = self.tokens, 0
        return tokens


def test_contexts_are_kept_for_the_next_chunks_after_them(monkeypatch):
    counting = Counting(engine_of("llama"), monkeypatch)
    computer = computer_of()
    computer.compute(job_of((FIRST,)))
    assert counting.taken() == len(PREFIX) + len(FIRST) + 2 * len(CHUNK)
    computer.compute(job_of((FIRST,)))
    assert counting.taken() == 2 * len(CHUNK), "after its context, and after the prefix alone"
    computer.compute(job_of((FIRST, SECOND)))
    assert counting.taken() == len(SECOND) + 2 * len(CHUNK), "what it has in common is not computed again"
    after_itself = VariantJob(planner().chunk(SECOND, LOSSLESS_POINT, 1, 0), VariantKind.PAIR, PREFIX, (FIRST, CHUNK))
    computer.compute(after_itself)
    assert counting.taken() == 2 * len(SECOND), "a computed chunk is the context of the next one"


def test_contexts_are_evicted_by_bytes_and_results_stay_the_same(monkeypatch):
    expected = in_full("llama", PREFIX, FIRST, SECOND)
    counting = Counting(engine_of("llama"), monkeypatch)
    computer = computer_of(contexts=ContextCache(0))
    for had in (0, len(PREFIX)):  # the last one, which the dependence was measured after
        close(computer.compute(job_of()).kv, expected)
        assert counting.taken() == 2 * len(PREFIX) + len(FIRST) + len(SECOND) + 2 * len(CHUNK) - had


def test_a_context_that_another_namespace_had_computed_is_computed_again(monkeypatch):
    """Else the time would tell that somebody else used the same text."""
    counting = Counting(engine_of("llama"), monkeypatch)
    shared = ContextCache()
    takes = []
    for namespace in (Namespace("a", bytes(16)), Namespace("b", bytes(16)), Namespace("a", bytes(16))):
        computer = VariantComputer(engine_of("llama"), planner(namespace=namespace), contexts=shared)
        computer.compute(job_of((FIRST,)))
        takes.append(counting.taken())
    assert takes == [len(PREFIX) + len(FIRST) + 2 * len(CHUNK)] * 2 + [2 * len(CHUNK)]


def test_what_the_model_cannot_take_is_refused_before_anything_is_computed(monkeypatch):
    counting = Counting(engine_of("llama"), monkeypatch)
    computer = computer_of()
    long = np.ones(engine_of("llama").traits.max_context, np.uint32)
    with pytest.raises(BadRequestError, match="at most"):
        computer.compute(job_of((long,)))
    unknown = VariantJob(planner().chunk(np.array([500], np.uint32), HIGH, 1, 0), VariantKind.BASE, PREFIX)
    with pytest.raises(BadRequestError, match="below 500"):
        computer.compute(unknown)
    assert counting.taken() == 0


# Attention


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_sums_are_what_the_model_says_of_its_attention(family):
    computed = computer_of(family, attention_sums=True).compute(job_of())
    tokens = np.concatenate([PREFIX, FIRST, SECOND, CHUNK])
    mean = own_attention(engine_of(family)._runner.model, tokens).mean((0, 1)).numpy()
    ends = np.cumsum([len(PREFIX), len(FIRST), len(SECOND), len(CHUNK)])
    rows = mean[ends[2] :]
    inter = [source.inter for source in computed.sources]
    expected = [float(rows[:, begin:end].sum()) for begin, end in ((ends[0], ends[1]), (ends[1], ends[2]))]
    assert inter == pytest.approx(expected, rel=1e-3)
    assert computed.intra == pytest.approx(float(rows[:, ends[2] :].sum()), rel=1e-3)
    np.testing.assert_allclose(computed.side.inter, rows[:, ends[0] : ends[2]].sum(1), rtol=1e-3, atol=1e-5)
    close(computed.kv, in_full(family, PREFIX, FIRST, SECOND))
    assert computed.side.dependence is not None


def test_attention_is_kept_only_where_it_is_asked_for():
    computed = computer_of().compute(job_of())
    assert computed.side.inter is None
    assert computed.intra == 0
    assert [source.inter for source in computed.sources] == [0.0, 0.0]
    assert computer_of(attention_sums=True).compute(job_of((), VariantKind.BASE)).side is None
