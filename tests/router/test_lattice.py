"""Where prompts may be cut into exact chunks: what a text leaves is found by every text that begins with it."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.cutting import cut, cuts
from kvquilt_codec.types import TOKEN_BLOCK
from kvquilt_router.lattice import partition, pieces
from kvquilt_router.types import Prompt

EMPTY = np.empty(0, np.uint32)
TARGETS = st.sampled_from([2, 16, 64, 512])


@st.composite
def texts(draw):
    """Token ids of few or many kinds, or all the same: cuts are rare in some, and none are in others."""
    kinds = draw(st.sampled_from([1, 2, 5, 40_000]))
    length = draw(st.integers(2, 2000))
    return np.random.default_rng(draw(st.integers(0, 99))).integers(0, kinds, length).astype(np.uint32)


def plain(tokens, prefix=0):
    body = tokens[prefix:]
    return Prompt(tokens[:prefix], (body[:-1],) if len(body) > 1 else (), body[-1:], plain=True)


def reach(stored, begin=0):
    """How far stored pieces lead from a place."""
    places = {begin}
    for piece in sorted(stored):
        if piece.begin in places:
            places.add(piece.end)
    return max(places)


@given(texts(), TARGETS, st.data())
def test_sure_cuts_are_made_in_every_longer_text(tokens, target, data):
    shorter = cuts(tokens[: data.draw(st.integers(1, len(tokens)))], target)
    longer = cuts(tokens, target)
    assert set(shorter.sure) <= set(longer.sure)
    last = shorter.sure[-1] if shorter.sure else 0
    assert [end for end in shorter.ends if end <= last] == [end for end in longer.ends if end <= last]


@given(texts(), TARGETS, st.data())
def test_each_turn_of_a_conversation_finds_all_earlier_turns_to_the_last_block(tokens, target, data):
    block = min(TOKEN_BLOCK, target)
    turns = sorted(data.draw(st.lists(st.integers(2, len(tokens)), min_size=1, max_size=5)))
    prefix = data.draw(st.integers(0, 1))
    stored = set()
    for end in turns:
        possible = set(pieces(plain(tokens[:end], prefix), target))
        begin = reach(stored & possible)
        # What was stored before is among what this longer text may be cut into.
        assert begin == reach(stored)
        stored |= set(partition(sorted(possible), begin, end))
        assert end - block < reach(stored) <= end


@given(texts(), TARGETS, st.data())
def test_saving_from_anywhere_leaves_no_gap(tokens, target, data):
    possible = pieces(plain(tokens), target)
    begin = data.draw(st.integers(0, len(tokens)))
    end = data.draw(st.integers(begin, len(tokens)))
    chosen = partition(possible, begin, end)
    for before, after in itertools.pairwise(chosen):
        assert before.end == after.begin
    assert all(begin <= piece.begin < piece.end <= end for piece in chosen)


@given(texts(), TARGETS, st.data())
def test_documents_are_cut_as_everywhere_else_and_what_follows_them_may_go_on(tokens, target, data):
    prefix = data.draw(st.integers(0, len(tokens) - 1))
    document = data.draw(st.integers(1, len(tokens) - prefix))
    first, rest = tokens[prefix : prefix + document], tokens[prefix + document :]
    found = pieces(Prompt(tokens[:prefix], (first,), rest), target)
    ends = [piece.end - prefix for piece in found if piece.segment == 1]
    assert ends == cut(first, target)
    after = {(piece.begin, piece.end) for piece in found if piece.segment == 2}
    shifted = {(p.begin + prefix + document, p.end + prefix + document) for p in pieces(plain(rest), target)}
    assert after == (shifted if len(rest) else set())
