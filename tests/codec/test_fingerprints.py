"""Fingerprints of texts: shared runs share one, and nothing is told without the secret."""

import hmac

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.fingerprints import (
    FINGERPRINT_BYTES,
    MAX_PER_CHUNK,
    SHARED_RUN,
    WINDOW,
    K,
    fingerprints,
    pack,
    unpack,
)
from kvquilt_codec.identity import Namespace
from kvquilt_codec.types import TokenIds
from tests.codec.samples import FINGERPRINT, NAMESPACE, OTHER_FINGERPRINT


def text(tokens: int, seed: int = 0, vocabulary: int = 50_000) -> TokenIds:
    return np.random.default_rng(seed).integers(0, vocabulary, tokens, dtype=np.uint32)


def found(token_ids: TokenIds) -> list[tuple[int, bytes]]:
    return fingerprints(NAMESPACE, FINGERPRINT, token_ids)


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**32 - 1),
    shared=st.integers(SHARED_RUN, 200),
    around=st.tuples(*[st.integers(0, 120)] * 4),
    vocabulary=st.sampled_from([2, 3, 50_000]),
)
def test_texts_that_share_a_run_share_a_fingerprint_of_it(
    seed: int, shared: int, around: tuple[int, int, int, int], vocabulary: int
) -> None:
    a, b, c, _ = around
    rest = text(sum(around), seed, vocabulary)
    run = text(shared, seed + 1, vocabulary)
    one = np.concatenate([rest[:a], run, rest[a : a + b]])
    other = np.concatenate([rest[a + b : a + b + c], run, rest[a + b + c :]])
    in_one = {digest for offset, digest in found(one) if a <= offset <= a + shared - K}
    in_other = {digest for offset, digest in found(other) if c <= offset <= c + shared - K}
    assert in_one & in_other


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 400), st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 50_000]))
def test_there_is_one_in_every_window_and_never_two_in_one_place(tokens: int, seed: int, vocabulary: int) -> None:
    offsets = [offset for offset, _ in found(text(tokens, seed, vocabulary))]
    grams = max(1, tokens - K + 1)
    ends = np.array([-1, *offsets, grams])
    gaps = np.diff(ends)
    assert gaps.min() >= 1, "ascending, within the text"
    assert gaps.max() <= WINDOW or grams <= WINDOW
    assert len(offsets) >= 1


def test_ordinary_and_constant_text_have_few() -> None:
    expected = 20_000 * 2 / (WINDOW + 1)
    assert 0.9 * expected < len(found(text(20_000))) < 1.1 * expected
    assert len(found(np.zeros(4096, np.uint32))) <= 4096 // WINDOW + 1, "ties do not keep every place"


@pytest.mark.parametrize("tokens", [1, K - 1, K, K + 1, SHARED_RUN - 1])
def test_a_short_text_has_one_and_a_very_short_one_that_of_all_of_it(tokens: int) -> None:
    own = found(text(tokens))
    assert len(own) >= 1
    if tokens < K:
        assert own[0][0] == 0
        longer = found(text(K + 40))
        assert own[0][1] not in {digest for _, digest in longer}, "its length is part of it"


def test_secret_model_and_text_are_in_every_digest() -> None:
    tokens = text(300)
    one = {digest for _, digest in found(tokens)}
    for other in (
        fingerprints(Namespace("tests", b"another secret of tests"), FINGERPRINT, tokens),
        fingerprints(NAMESPACE, OTHER_FINGERPRINT, tokens),
        found(text(300, 1)),
    ):
        assert one.isdisjoint(digest for _, digest in other)


def test_a_digest_is_the_documented_one() -> None:
    tokens = text(40)
    fields = (b"kvquilt k-gram v1", FINGERPRINT.encode())
    for offset, digest in found(tokens):
        gram = tokens[offset : offset + K].astype("<u4").tobytes()
        message = b"".join(len(part).to_bytes(8, "little") + part for part in (*fields, gram))
        assert digest == hmac.digest(NAMESPACE.secret, message, "sha256")[:FINGERPRINT_BYTES]


def test_what_is_packed_comes_back_and_there_is_a_limit() -> None:
    own = found(text(4096))
    assert unpack(pack(own), 4096) == own
    many = [(offset, bytes(FINGERPRINT_BYTES)) for offset in range(4000)]
    assert unpack(pack(many), 4096) == many[:MAX_PER_CHUNK]
    assert pack([]) == b""


@pytest.mark.parametrize(
    ("packed", "message"),
    [
        (bytes(17), "17 bytes"),
        (bytes(18 * (MAX_PER_CHUNK + 1)), "at most 1024"),
        (bytes(36), "ascending"),
        (b"\x05\0" + bytes(16), "below 5"),
        (b"\x04\0" + bytes(16) + b"\x03\0" + bytes(16), "ascending"),
    ],
)
def test_what_is_none_is_refused(packed: bytes, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        unpack(packed, 5)


def test_no_tokens_have_no_fingerprints() -> None:
    with pytest.raises(BadRequestError, match="token ids"):
        found(np.empty(0, np.uint32))
