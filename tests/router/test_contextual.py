"""How much of a chunk hangs on its former context."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.catalog import ContextSource
from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies.contextual import Contextual, shares
from kvquilt_router.policies.overhead import best_variant, cfo, discordance
from kvquilt_router.selection import ReusedChunk, SelectionProblem

A, B, C, D = (bytes([n]) * 32 for n in range(4))
PLACE = {"begin": 300, "end": 400, "chunk_key": D}


def variant(*sources, intra=500.0, inter=None):
    """A chunk of 100 tokens, computed after sources of 100 tokens with the given attention."""
    made = tuple(ContextSource(key, 100, attention) for key, attention in sources)
    return ReusedChunk(**PLACE, sources=made, intra=intra, inter=inter)


def order(*keys):
    return tuple((key, 100 * number) for number, key in enumerate(keys))


def test_the_overhead_is_that_of_the_papers_equations():
    chunk = variant((A, 30.0), (B, 10.0), (C, 20.0))
    beta = (30.0 + 10.0) / 60.0  # C does not precede it any more
    gamma = 1.0  # B is before A now, the only pair
    cci = 1 / (1 + math.exp(-(60.0 / 100**2) / (500.0 / 100**2)))
    assert cfo(chunk, order(B, A)) == pytest.approx(cci * (1 - beta * (1 - gamma)))
    assert cfo(chunk, order(A, B)) == pytest.approx(cci * (1 - beta))


def test_a_chunk_behind_its_former_context_needs_nothing_whatever_stands_between():
    chunk = variant((A, 30.0), (B, 10.0))
    assert cfo(chunk, order(A, B)) == 0
    assert cfo(chunk, order(A, C, B)) == 0


def test_what_comes_after_a_chunk_does_not_count_as_its_context():
    chunk = variant((A, 30.0))
    assert cfo(chunk, ((D, 300), (A, 400))) == cfo(chunk, ()) > 0.5


def test_a_chunk_of_which_nothing_was_kept_needs_everything():
    assert cfo(ReusedChunk(0, 10), order(A)) == 1
    assert cfo(variant((A, 3.0), intra=0.0), order(A)) == 1


def test_discordance_is_the_share_of_swapped_pairs():
    assert discordance([0, 100, 200]) == 0
    assert discordance([200, 100, 0]) == 1
    assert discordance([0, 200, 100]) == pytest.approx(1 / 3)
    assert discordance([5]) == discordance([]) == 0


def test_the_best_variant_is_the_one_computed_in_the_likest_context():
    alone, after_ab, after_ba = variant(), variant((A, 5.0), (B, 5.0)), variant((B, 5.0), (A, 5.0))
    assert best_variant([alone, after_ba, after_ab], order(A, B, C)) is after_ab
    assert best_variant([alone, after_ab, after_ba], order(B, A)) is after_ba
    assert best_variant([alone, ReusedChunk(**PLACE)], order(A)) is alone  # of equal ones the first
    with pytest.raises(BadRequestError, match="at least one"):
        best_variant([], order(A))


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(1, 60)), max_size=8),
    st.floats(0, 1),
)
def test_shares_are_in_proportion_and_add_up_to_the_budget(chunks, ratio):
    overheads = np.array([overhead for overhead, _ in chunks], np.float64)
    lengths = np.array([length for _, length in chunks], np.int64)
    budget = math.ceil(ratio * lengths.sum())
    counts = shares(overheads, lengths, budget)
    assert (counts >= 0).all()
    assert (counts <= lengths).all()
    assert (counts[overheads == 0] == 0).all()
    assert counts.sum() == min(budget, lengths[overheads > 0].sum())
    open_ = np.flatnonzero((counts < lengths) & (overheads > 0))
    alphas = counts[open_] / (overheads * lengths)[open_]
    slack = 1 / (overheads * lengths)[open_]
    assert all(
        alphas[i] - slack[i] <= alphas[j] + slack[j] + 1e-9 for i in range(len(open_)) for j in range(len(open_))
    )


def test_the_tokens_that_attended_to_their_former_context_most_are_taken():
    inter = np.zeros(100, np.float32)
    inter[[7, 70, 99]] = [2.0, 3.0, 1.0]
    known, unknown = variant((A, 6.0), inter=inter), ReusedChunk(400, 500)
    both = SelectionProblem((known, unknown), 500, 12, order=order(B), layers=30)
    selection = Contextual().select(both, None)
    chosen = selection.positions.tolist()
    ours = [position for position in chosen if position < 400]
    assert len(ours) == round(12 * cfo(known, order(B)) / (1 + cfo(known, order(B))))
    assert set(ours) >= {370, 307, 399}
    assert chosen[len(ours) :] == list(range(400, 400 + 12 - len(ours)))  # nothing known: from its beginning on
    assert selection.filter is not None
    assert Contextual(focus=False).select(both, None).filter is None
