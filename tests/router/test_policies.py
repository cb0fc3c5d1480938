"""What each policy chooses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.catalog import ContextSource
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import VariantKind
from kvquilt_router.policies import EVALUATION_ONLY, POLICIES, policy_by_name
from kvquilt_router.selection import ReusedChunk, SelectionProblem


class NoProbe:
    """For policies that must not look."""

    def value_deviation(self, layer):
        raise AssertionError("this policy needs no look at fresh values")

    def question_attention(self, weights=None):
        raise AssertionError("this policy needs no look at the question")

    def high_deviation(self, layer):
        raise AssertionError("this policy needs no look at all columns")


class FixedProbe:
    """A model whose deviation and attention (of two layers with one head each) are given."""

    def __init__(self, deviation=(), attention=()):
        self.deviation = np.asarray(deviation, np.float32)
        self.attention = np.asarray(attention, np.float32)
        self.layers = []

    def value_deviation(self, layer):
        self.layers.append(layer)
        return self.deviation

    def question_attention(self, weights=None):
        return (self.attention if weights is None else self.attention * weights[:, 0]).sum(0)

    def high_deviation(self, layer):
        self.layers.append(layer)
        return self.deviation, self.attention.sum(0)


def problem_of(spans, context_tokens, budget, seed=0):
    return SelectionProblem(tuple(ReusedChunk(*span) for span in spans), context_tokens, budget, seed)


def choose(name, problem, probe):
    return policy_by_name(name).select(problem, probe).positions


@st.composite
def problems(draw):
    """Chunks with gaps between them; some come with what is known of their former context."""
    lengths = draw(st.lists(st.integers(1, 40), max_size=6))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    chunks, order, position = [], [], 0
    for number, length in enumerate(lengths):
        begin = position + draw(st.integers(0, 5))
        position, key = begin + length, bytes([number]) * 32
        former = draw(st.lists(st.integers(0, 8), max_size=4))
        sources = tuple(ContextSource(bytes([other]) * 32, 30, float(rng.random())) for other in former)
        inter = rng.random(length).astype(np.float32) if draw(st.booleans()) else None
        dependence = rng.random((2, 1, length)).astype(np.float32) if draw(st.booleans()) else None
        intra = draw(st.sampled_from([0.0, 0.5, float(length)]))
        chunks.append(ReusedChunk(begin, position, key, VariantKind.BASE, dependence, inter, sources, intra))
        order.append((key, begin))
    budget, seed = draw(st.integers(0, sum(lengths))), draw(st.integers(0, 9))
    return SelectionProblem(tuple(chunks), position + 3, budget, seed, tuple(order), draw(st.sampled_from([0, 2, 30])))


@given(problems())
def test_every_policy_keeps_to_candidates_and_budget_and_repeats_itself(problem):
    rng = np.random.default_rng(0)
    probe = FixedProbe(rng.random(problem.context_tokens), rng.random((2, problem.context_tokens)))
    for name in POLICIES:
        chosen = choose(name, problem, probe)
        assert chosen.dtype == np.int64
        assert (np.diff(chosen) > 0).all()
        assert choose(name, problem, probe).tolist() == chosen.tolist()
        if name == "full":
            continue
        # What is exact, missing or of the shared prefix lies outside of the chunks, so it is never chosen.
        assert set(chosen.tolist()) <= set(problem.candidates.tolist())
        if name == "anchors":
            assert chosen.tolist() == problem.candidates.tolist()  # a cold pool reuses nothing
        elif name == "deviation":
            assert problem.budget <= len(chosen) <= max(problem.budget, int(1.2 * problem.budget))
        else:
            assert len(chosen) <= problem.budget
            if name not in ("none", "contextual"):
                assert len(chosen) == problem.budget


def test_full_takes_every_context_token_whatever_the_budget():
    assert choose("full", problem_of([(4, 8)], 10, 1), NoProbe()).tolist() == list(range(10))


def test_none_takes_nothing():
    assert choose("none", problem_of([(0, 8)], 8, 8), NoProbe()).size == 0


def test_random_draws_the_same_for_the_same_seed_and_others_for_another():
    def draw(seed):
        return choose("random", problem_of([(0, 200)], 200, 20, seed), NoProbe()).tolist()

    assert draw(7) == draw(7)
    assert draw(7) != draw(8)


def test_first_tokens_shares_the_budget_equally_and_short_chunks_pass_theirs_on():
    chosen = choose("first-tokens", problem_of([(0, 2), (10, 30), (40, 60)], 60, 12), NoProbe()).tolist()
    assert chosen == [0, 1, *range(10, 15), *range(40, 45)]


def test_deviation_takes_the_tokens_that_differ_most_at_layer_one():
    deviation = np.zeros(20)
    deviation[[3, 7, 12]] = [5.0, 9.0, 1.0]
    deviation[19] = 100.0  # outside the spans: never a candidate
    probe = FixedProbe(deviation)
    chosen = choose("deviation", problem_of([(2, 15)], 20, 2), probe)
    assert chosen.tolist() == [3, 7]
    assert probe.layers == [1]


@pytest.mark.parametrize("name", ["deviation", "contextual", "question", "question-deviation", "dual-stage"])
def test_nothing_is_looked_at_when_there_is_nothing_to_choose(name):
    assert choose(name, problem_of([], 20, 0), NoProbe()).size == 0


def test_question_takes_the_tokens_that_the_question_looks_at_most():
    attention = np.zeros((2, 12))
    attention[0, 3], attention[1, 3], attention[1, 5], attention[0, 11] = 0.2, 0.2, 0.3, 9.0
    assert choose("question", problem_of([(2, 10)], 12, 1), FixedProbe(attention=attention)).tolist() == [3]


def test_question_deviation_weighs_attention_by_how_much_a_token_depends_on_its_context():
    attention = np.full((2, 12), 0.1)
    dependence = np.zeros((2, 1, 8), np.float32)
    dependence[1, 0, 4] = 1.0
    chunk = ReusedChunk(2, 10, dependence=dependence)
    problem = SelectionProblem((chunk,), 12, 1)
    assert choose("question-deviation", problem, FixedProbe(attention=attention)).tolist() == [6]


def test_question_deviation_takes_the_mean_for_a_chunk_that_came_without_dependence():
    attention = np.full((2, 8), 0.1)
    attention[:, 6] = 0.15
    known = ReusedChunk(0, 4, dependence=np.array([0.0, 0.0, 0.0, 2.0], np.float32) * np.ones((2, 1, 1), np.float32))
    problem = SelectionProblem((known, ReusedChunk(4, 8)), 8, 2)
    assert choose("question-deviation", problem, FixedProbe(attention=attention)).tolist() == [3, 6]


def test_an_unknown_policy_is_refused_with_the_known_names():
    with pytest.raises(BadRequestError, match="first-tokens") as caught:
        policy_by_name("nope")
    assert caught.value.reason == "unknown_policy"
    assert all(policy_by_name(name).name == name for name in POLICIES)


@pytest.mark.parametrize("name", EVALUATION_ONLY)
def test_what_is_for_evaluation_only_is_refused_with_the_reason(name):
    with pytest.raises(BadRequestError, match="attend to the chunks in parallel") as caught:
        policy_by_name(name)
    assert caught.value.reason == "unknown_policy"
