"""Content-defined cuts: within their lengths, the same everywhere, and unmoved by edits elsewhere."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec.cutting import cut
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TokenIds


def text(tokens: int, seed: int = 0, vocabulary: int = 50_000) -> TokenIds:
    return np.random.default_rng(seed).integers(0, vocabulary, tokens, dtype=np.uint32)


def chunks(token_ids: TokenIds, target: int) -> list[bytes]:
    return [token_ids[begin:end].tobytes() for begin, end in itertools.pairwise([0, *cut(token_ids, target)])]


@settings(deadline=None, max_examples=150)
@given(
    tokens=st.integers(0, 6000),
    target=st.one_of(st.sampled_from([1, 2, 3, 64, 512, 3000, 4096]), st.integers(1, MAX_CHUNK_TOKENS)),
    vocabulary=st.sampled_from([1, 2, 50_000]),
    seed=st.integers(0, 2**32 - 1),
)
def test_chunks_are_of_allowed_lengths_and_make_up_the_text(
    tokens: int, target: int, vocabulary: int, seed: int
) -> None:
    ends = cut(text(tokens, seed, vocabulary), target)
    lengths = np.diff([0, *ends])
    assert sum(lengths) == tokens
    assert len(lengths) == 0 or lengths.max() <= min(2 * target, MAX_CHUNK_TOKENS)
    assert len(lengths) <= 1 or lengths.min() >= max(1, target // 2)


@settings(deadline=None, max_examples=80)
@given(
    seed=st.integers(0, 2**32 - 1),
    where=st.floats(0, 1),
    removed=st.integers(0, 400),
    inserted=st.integers(0, 400),
    target=st.sampled_from([64, 128, 256]),
)
def test_an_edit_changes_the_chunks_near_it_and_no_others(
    seed: int, where: float, removed: int, inserted: int, target: int
) -> None:
    """An inserted, deleted or replaced span: chunks that end well before it, or begin well after it, are the same."""
    before = text(12_000, seed)
    at = int(where * (len(before) - removed))
    after = np.concatenate([before[:at], text(inserted, seed + 1), before[at + removed :]])
    near = 4 * target
    ends, moved = cut(before, target), set(cut(after, target))
    shift = inserted - removed
    kept = [end for end in ends if end < at - near] + [end for end in ends if end > at + removed + near]
    assert {end if end < at else end + shift for end in kept} <= moved
    old = chunks(before, target)
    changed = len(old) - len(set(old) & set(chunks(after, target)))
    assert changed <= 6 + removed // (target // 2)


def test_on_ordinary_text_chunks_are_about_the_target() -> None:
    for target in (128, 512):
        assert 0.8 * target < 200_000 / len(cut(text(200_000), target)) < 1.2 * target


def test_the_same_tokens_are_cut_the_same_way_in_another_process() -> None:
    program = (
        "import numpy as np; from kvquilt_codec.cutting import cut; print(cut(np.arange(5000, dtype='u4') % 977, 99))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert ended.stdout.strip() == str(cut(np.arange(5000, dtype=np.uint32) % 977, 99))


@pytest.mark.parametrize("target", [0, -1, MAX_CHUNK_TOKENS + 1])
def test_a_target_that_no_chunk_can_have_is_refused(target: int) -> None:
    with pytest.raises(BadRequestError, match=r"1\.\.4096"):
        cut(text(10), target)
