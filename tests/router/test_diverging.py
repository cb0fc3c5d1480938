"""Where two texts part: the first token that differs, whatever was done to the text."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_router.why.comparing import compared, edit, normalised
from kvquilt_router.why.diverging import diverging

texts = st.lists(st.integers(0, 9), min_size=1, max_size=80).map(lambda ids: np.array(ids, np.uint32))


@given(text=texts, stored=texts, shifts=st.lists(st.integers(-90, 90), max_size=4))
def test_all_before_the_divergence_is_the_same_and_what_is_there_is_not(text, stored, shifts):
    found = diverging(text, stored, tuple(shifts))
    if found is None:
        assert np.array_equal(text, stored)
        return
    at = found.offset
    assert np.array_equal(text[:at], stored[:at])
    assert found.got == (text[at] if at < len(text) else None)
    assert found.expected == (stored[at] if at < len(stored) else None)
    assert found.got != found.expected
    same = slice(found.same_begin, found.same_begin + found.same_tokens)
    there = slice(found.same_stored, found.same_stored + found.same_tokens)
    assert np.array_equal(text[same], stored[there])
    assert len(text[same]) == found.same_tokens
    if not shifts:
        longest = max(len(run) for run in "".join(map(str, _equal(text, stored))).split("0"))
        assert found.same_tokens == longest


def _equal(text, stored):
    return [int(ours == theirs) for ours, theirs in zip(text.tolist(), stored.tolist(), strict=False)]


@given(stored=texts, at=st.integers(0, 79), inserted=st.lists(st.integers(10, 19), min_size=1, max_size=5))
def test_an_insertion_is_found_where_it_was_made(stored, at, inserted):
    at = min(at, len(stored))
    text = np.concatenate([stored[:at], np.array(inserted, np.uint32), stored[at:]])
    found = diverging(text, stored, (len(inserted),))
    assert (found.offset, found.got) == (at, inserted[0])
    assert found.same_tokens >= max(at, len(stored) - at)


def letters(tokens):
    return "".join(map(chr, tokens))


def tokens(text):
    return np.array([ord(letter) for letter in text], np.uint32)


def cause(ours, theirs, shifts=()):
    prompt = tokens("before " + ours + " after")
    return compared(prompt, 7, 7 + len(ours), tokens(theirs), letters, shifts).cause


def test_what_only_looks_different_to_a_tokenizer_is_told_apart():
    assert cause("The  quick\u00a0brown fox", "The quick brown fox") == "normalised"
    assert cause("the quick brown fox", "The quick brown fox") == "normalised"
    assert cause("ﬁne words here", "fine words here", (-1,)) == "normalised"
    assert cause("The quick red fox", "The quick brown fox") == "edited"
    assert cause("quick brown", "The quick brown fox", (-4,)) == "cut_elsewhere"
    assert normalised(" A\tb\n") == "a b"


def test_an_edit_between_two_parts_is_shown_with_its_surroundings():
    stored = tokens("one two three four five")
    prompt = tokens("one two THREE four five")
    told = edit(prompt, 8, 13, stored, 8, 13, letters)
    assert told.cause == "normalised"
    found = told.divergence
    assert (found.before, found.expected, found.got) == ("one two ", "three four f", "THREE four f")
    other = edit(tokens("one two 3 four five"), 8, 9, stored, 8, 13, letters)
    assert (other.cause, other.divergence.divergence.got) == ("edited", ord("3"))
    assert edit(prompt, 8, 13, stored, 8, None, letters).cause == "edited", "nobody knows where the edit ends"
