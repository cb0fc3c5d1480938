"""What policies drop from layer to layer."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_router.policies.contextual import Contextual
from kvquilt_router.policies.deviation import Deviation, GradualFilter, schedule
from kvquilt_router.policies.focus import FocusFilter, unfocused_of
from kvquilt_router.selection import ReusedChunk, Selection, SelectionProblem
from tests.router.assemblies import assembled


@dataclass
class FixedView:
    """A layer whose deviation (one per position) and question attention (one per context token) are given."""

    layer: int
    positions: np.ndarray
    deviation: np.ndarray | None = None
    attention: np.ndarray | None = None

    def value_deviation(self):
        return self.deviation

    def question_attention(self):
        return self.attention


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 80))
def test_the_schedule_never_grows_and_keeps_to_the_budget_on_average(budget, more, layers):
    counts = schedule(budget, budget + more, layers)
    assert (np.diff(counts) <= 0).all()
    assert counts.min() >= 0
    assert counts.max() <= budget + more
    assert budget - 1 < counts.mean() <= budget or budget == 0
    if layers > 2 and budget > 20 and more > budget:
        assert counts[0] == counts[1] > budget > counts[-1]  # "slightly above", then falling
    if more == 0:
        assert set(counts.tolist()) <= {budget}  # everything is chosen: nothing may be dropped


def test_deviation_drops_what_differs_least_layer_by_layer_and_nothing_else():
    rng = np.random.default_rng(0)
    problem = SelectionProblem((ReusedChunk(10, 110),), 120, 20, layers=12)
    counts = schedule(20, 100, 12)

    class Probe:
        def value_deviation(self, layer):
            return np.arange(120, dtype=np.float32)

    selection = Deviation().select(problem, Probe())
    assert selection.positions.tolist() == list(range(110 - counts[0], 110))
    positions = np.concatenate([[3, 5], selection.positions, [115]])  # with tokens that had no stored KV
    for layer in range(12):
        ours = positions[(positions >= 10) & (positions < 110)]
        assert len(ours) == counts[layer]
        # At layer 1 the look has replaced the stored values: the pass finds no deviation there any more.
        differs = positions.astype(np.float32) if layer == 1 else rng.random(len(positions)).astype(np.float32)
        view = FixedView(layer, positions, np.zeros(len(positions), np.float32) if layer == 1 else differs)
        keep = selection.filter.keep(view)
        if keep is not None:
            dropped, kept = positions[~keep], positions[keep]
            assert {3, 5, 115} <= set(kept.tolist())
            ours_kept = np.isin(positions, np.intersect1d(kept, ours))
            assert differs[~keep].max() <= differs[ours_kept].min()
            assert len(dropped) == counts[layer] - counts[layer + 1]
            positions = kept
    assert layer == 11


def test_deviation_chooses_once_if_asked_to_or_if_the_layers_are_not_known():
    class Probe:
        def value_deviation(self, layer):
            return np.arange(60, dtype=np.float32)

    problem = SelectionProblem((ReusedChunk(0, 60),), 60, 6, layers=12)
    unknown = SelectionProblem((ReusedChunk(0, 60),), 60, 6)
    for selection in (Deviation(gradual=False).select(problem, Probe()), Deviation().select(unknown, Probe())):
        assert selection.positions.tolist() == [54, 55, 56, 57, 58, 59]
        assert selection.filter is None


def test_the_gradual_filter_leaves_layer_zero_alone():
    positions = np.arange(30)
    view = FixedView(0, positions, np.zeros(30, np.float32))
    assert GradualFilter(positions, np.array([30, 20, 10]), np.zeros(30, np.float32)).keep(view) is None


def test_unfocused_chunks_are_dropped_from_a_middle_layer_on_and_only_once():
    chunks = [ReusedChunk(0, 10), ReusedChunk(10, 30), ReusedChunk(40, 50)]
    attention = np.zeros(60, np.float32)
    attention[[2, 12, 42]] = [3.0, 0.5, 2.0]
    positions = np.array([1, 2, 11, 12, 35, 41, 55])
    focus = FocusFilter(chunks, 10)
    for layer in range(3):
        assert focus.keep(FixedView(layer, positions, attention=attention)) is None
    keep = focus.keep(FixedView(3, positions, attention=attention))
    assert positions[keep].tolist() == [1, 2, 35, 41, 55]
    assert focus.keep(FixedView(4, positions[keep], attention=-attention)) is None


def test_attention_adds_up_over_layers_before_chunks_are_told_apart():
    chunks = [ReusedChunk(0, 4), ReusedChunk(4, 8)]
    first, second = np.zeros(8, np.float32), np.zeros(8, np.float32)
    first[0], first[4], second[0], second[4] = 1.0, 9.0, 8.5, 1.0
    focus = FocusFilter(chunks, 5)
    assert focus.keep(FixedView(0, np.arange(8), attention=first)) is None
    assert focus.keep(FixedView(1, np.arange(8), attention=second)) is None  # 9.5 and 10 are too close
    assert focus.keep(FixedView(2, np.arange(8), attention=4 * second)).tolist() == [True] * 4 + [False] * 4


def test_a_gap_of_less_than_two_to_one_divides_nothing():
    assert unfocused_of(np.array([4.0, 2.1, 1.2])).size == 0
    assert sorted(unfocused_of(np.array([1.0, 8.0, 0.9, 7.0]))) == [0, 2]
    assert unfocused_of(np.array([0.0, 5.0])).tolist() == [0]
    assert unfocused_of(np.array([5.0])).size == 0


class Spy:
    """A filter that notes what it saw and what it kept."""

    def __init__(self, inner):
        self._inner = inner
        self.seen = []

    def keep(self, view):
        self.seen.append((view.layer, view.positions.copy()))
        return self._inner.keep(view)


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral with a window"])
def test_the_engine_computes_as_many_tokens_a_layer_as_the_schedule_says(family):
    _, _, assembly = assembled(family, layers=8)
    problem = assembly.problem(0.5)
    selection = assembly.select(Deviation(), problem)
    spy = Spy(selection.filter)
    finished = []
    assembly.compute(Selection(selection.positions, spy), lambda layer, _: finished.append(layer))
    counts = schedule(problem.budget, len(problem.candidates), problem.layers)
    candidates = set(problem.candidates.tolist())
    assert [len(candidates.intersection(positions.tolist())) for _, positions in spy.seen] == counts[:-1].tolist()
    assert finished == list(range(8))


def test_deviation_at_a_ratio_of_one_is_a_full_prefill():
    engine, prompt, assembly = assembled("llama", layers=8)
    selection = assembly.select(Deviation(), assembly.problem(1.0))
    assembly.compute(selection, lambda *_: None)
    for got, expected in zip(assembly.kv.layers, engine.prefill(prompt.token_ids[:-1]), strict=True):
        assert float((got.keys - expected.keys).norm() / expected.keys.norm()) < 1e-4
        assert float((got.values - expected.values).norm() / expected.values.norm()) < 1e-4


def test_contextual_stops_computing_chunks_that_the_question_hardly_looks_at():
    _, _, assembly = assembled("llama", layers=8, lengths=(20, 60, 10))
    selection = assembly.select(Contextual(), assembly.problem(0.5))
    last = assembly.kv.layers[-1]
    before = last.keys.clone(), last.values.clone()
    spy = Spy(selection.filter)
    assembly.compute(Selection(selection.positions, spy), lambda *_: None)
    (_, first), (_, end) = spy.seen[0], spy.seen[-1]
    dropped = np.setdiff1d(first, end)
    assert dropped.min() >= 88  # the short chunk
    assert len(end) == len(first) - len(dropped) > 0
    for now, was in zip((last.keys, last.values), before, strict=True):
        changed = (now != was).any(3).any(1)[0]
        assert not bool(changed[dropped].any())  # the stored KV stays as it is
        assert bool(changed[end].all())
