"""What each policy chooses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies import POLICIES, policy_by_name
from kvquilt_router.types import SelectionProblem


class NoProbe:
    """For policies that must not look."""

    def value_deviation(self, layer):
        raise AssertionError("this policy needs no look at fresh values")


class FixedProbe:
    def __init__(self, deviation):
        self.deviation = np.asarray(deviation, np.float32)
        self.layers = []

    def value_deviation(self, layer):
        self.layers.append(layer)
        return self.deviation


@st.composite
def problems(draw):
    lengths = draw(st.lists(st.integers(1, 40), max_size=6))
    gaps = draw(st.lists(st.integers(0, 5), min_size=len(lengths), max_size=len(lengths)))
    spans, position = [], 0
    for length, gap in zip(lengths, gaps, strict=True):
        spans.append((position + gap, position + gap + length))
        position += gap + length
    budget = draw(st.integers(0, sum(lengths)))
    return SelectionProblem(tuple(spans), position + 3, budget, draw(st.integers(0, 9)))


@given(problems())
def test_choosing_policies_keep_to_candidates_and_budget(problem):
    probe = FixedProbe(np.random.default_rng(0).random(problem.context_tokens))
    for name in ("none", "random", "first-tokens", "deviation"):
        chosen = policy_by_name(name).select(problem, probe)
        assert set(chosen.tolist()) <= set(problem.candidates.tolist())
        assert len(set(chosen.tolist())) == len(chosen) <= problem.budget
        assert chosen.tolist() == sorted(chosen.tolist())
        if name != "none":
            assert len(chosen) == problem.budget


def test_full_takes_every_context_token_whatever_the_budget():
    problem = SelectionProblem(((4, 8),), 10, 1, 0)
    assert policy_by_name("full").select(problem, NoProbe()).tolist() == list(range(10))


def test_none_takes_nothing():
    assert policy_by_name("none").select(SelectionProblem(((0, 8),), 8, 8, 0), NoProbe()).size == 0


def test_random_draws_the_same_for_the_same_seed_and_others_for_another():
    draw = policy_by_name("random").select
    first = draw(SelectionProblem(((0, 200),), 200, 20, 7), NoProbe())
    assert draw(SelectionProblem(((0, 200),), 200, 20, 7), NoProbe()).tolist() == first.tolist()
    assert draw(SelectionProblem(((0, 200),), 200, 20, 8), NoProbe()).tolist() != first.tolist()


def test_first_tokens_shares_the_budget_equally_and_short_chunks_pass_theirs_on():
    problem = SelectionProblem(((0, 2), (10, 30), (40, 60)), 60, 12, 0)
    chosen = policy_by_name("first-tokens").select(problem, NoProbe()).tolist()
    assert chosen == [0, 1, *range(10, 15), *range(40, 45)]


def test_deviation_takes_the_tokens_that_differ_most_at_layer_one():
    deviation = np.zeros(20)
    deviation[[3, 7, 12]] = [5.0, 9.0, 1.0]
    deviation[19] = 100.0  # outside the spans: never a candidate
    probe = FixedProbe(deviation)
    chosen = policy_by_name("deviation").select(SelectionProblem(((2, 15),), 20, 2, 0), probe)
    assert chosen.tolist() == [3, 7]
    assert probe.layers == [1]


def test_deviation_does_not_look_when_there_is_nothing_to_choose():
    assert policy_by_name("deviation").select(SelectionProblem((), 20, 0, 0), NoProbe()).size == 0


def test_an_unknown_policy_is_refused_with_the_known_names():
    with pytest.raises(BadRequestError, match="first-tokens") as caught:
        policy_by_name("nope")
    assert caught.value.reason == "unknown_policy"
    assert all(policy.name == name for name, policy in POLICIES.items())
