"""Known chunks in a prompt of plain tokens: found at any offset, found in part after edits, and never wrong tokens."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.store import Database
from kvquilt_codec.catalog import ChunkMatch, ObjectMeta
from kvquilt_codec.cutting import cut
from kvquilt_codec.fingerprints import SHARED_RUN, fingerprints, pack
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import chunk_key
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.matching import MIN_RUN, Diagonal, FoundChunk, Run, diagonals, runs, whole_chunks
from tests.codec.samples import FINGERPRINT, NAMESPACE

NONE = bytes(32)


def text(tokens: int, seed: int = 0, vocabulary: int = 50_000) -> TokenIds:
    return np.random.default_rng(seed).integers(0, vocabulary, tokens, dtype=np.uint32)


@dataclass
class Corpus:
    """An index that knows chunks, and the chunks' tokens."""

    index: Database = field(default_factory=lambda: Database(":memory:", lambda: 0.0, Lru()))
    chunks: dict[bytes, TokenIds] = field(default_factory=dict)

    def add(self, pieces: Sequence[TokenIds]) -> "Corpus":
        for piece in pieces:
            key = chunk_key(NAMESPACE, FINGERPRINT, piece)
            if key not in self.chunks:
                packed = pack(fingerprints(NAMESPACE, FINGERPRINT, piece))
                base = (VariantKind.BASE, LOSSLESS, 0.0, key, NONE, NONE, (), 0.0, packed)
                self.index.commit(key, 1, ObjectMeta(FINGERPRINT, (), len(piece), *base))
                self.chunks[key] = piece
        return self

    def find(self, prompt: TokenIds) -> tuple[list[FoundChunk], list[tuple[bytes, Run]]]:
        """Whole chunks of a prompt, then parts of others: as a router does it."""
        own = fingerprints(NAMESPACE, FINGERPRINT, prompt)
        matches = self.index.find_chunks([digest for _, digest in own], FINGERPRINT, 8)
        whole = whole_chunks(NAMESPACE, FINGERPRINT, prompt, own, matches)
        guesses = diagonals(len(prompt), own, matches, whole)
        taken = [(chunk.begin, chunk.end) for chunk in whole]
        parts: list[tuple[bytes, Run]] = []
        for key in dict.fromkeys(guess.chunk_key for guess in guesses):
            of_chunk = [guess for guess in guesses if guess.chunk_key == key]
            for run in runs(prompt, self.chunks[key], of_chunk, taken=taken):
                parts.append((key, run))
                taken.append((run.begin, run.end))
        self.assert_true(prompt, whole, parts)
        return whole, parts

    def assert_true(self, prompt: TokenIds, whole: list[FoundChunk], parts: list[tuple[bytes, Run]]) -> None:
        """No overlaps, and every token is the chunk's own."""
        covered = np.zeros(len(prompt), int)
        for chunk in whole:
            assert prompt[chunk.begin : chunk.end].tolist() == self.chunks[chunk.chunk_key].tolist()
            covered[chunk.begin : chunk.end] += 1
        for key, run in parts:
            source = self.chunks[key][run.source_begin : run.source_begin + run.length]
            assert prompt[run.begin : run.end].tolist() == source.tolist()
            assert len(source) == run.length >= MIN_RUN
            covered[run.begin : run.end] += 1
        assert covered.max(initial=0) <= 1


def pieces(document: TokenIds, target: int = 256) -> list[TokenIds]:
    return np.split(document, cut(document, target)[:-1])


@pytest.mark.parametrize("preamble", [0, 10, 511, 3000])
def test_a_document_behind_a_preamble_is_found_to_its_last_token(preamble: int) -> None:
    document = text(2048)
    for chunks in (np.array_split(document, 4), pieces(document)):
        prompt = np.concatenate([text(preamble, 1), document, text(30, 2)])
        whole, parts = Corpus().add(chunks).find(prompt)
        assert whole[0].begin == preamble
        assert sum(chunk.tokens for chunk in whole) == 2048
        assert parts == []


def test_of_a_longer_document_every_whole_chunk_is_found_and_the_rest_in_part() -> None:
    document = text(3000)
    corpus = Corpus().add([document[begin : begin + 300] for begin in range(0, 3000, 300)])
    whole, ((key, run),) = corpus.find(np.concatenate([text(10, 1), document[:2048], text(5, 2)]))
    assert [chunk.begin for chunk in whole] == [10 + 300 * number for number in range(6)]
    assert (run.begin, run.length, run.source_begin) == (1810, 248, 0)
    assert corpus.chunks[key].tolist() == document[1800:2100].tolist()


def test_the_longest_chunks_are_taken_first_then_from_left_to_right() -> None:
    document = text(600)
    whole, _ = Corpus().add([document[:200], document[100:500], document[500:], document]).find(document)
    assert [(chunk.begin, chunk.tokens) for chunk in whole] == [(0, 600)]
    whole, parts = Corpus().add([document[:200], document[100:500], document[500:]]).find(document)
    assert [(chunk.begin, chunk.tokens) for chunk in whole] == [(100, 400), (500, 100)]
    assert [(run.begin, run.length) for _, run in parts] == [(0, 100)]
    left, right = Corpus().add([document[:200], document[100:300]]).find(document[:300])
    assert [(chunk.begin, chunk.tokens) for chunk in left] == [(0, 200)]
    assert [(run.begin, run.length) for _, run in right] == [(200, 100)]


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    where=st.floats(0, 1),
    removed=st.integers(0, 60),
    inserted=st.integers(0, 60),
    preamble=st.integers(0, 40),
)
def test_an_edit_leaves_all_but_the_edited_span_found(
    seed: int, where: float, removed: int, inserted: int, preamble: int
) -> None:
    document = text(2048, seed)
    at = int(where * (2048 - removed))
    edited = np.concatenate([document[:at], text(inserted, seed + 1), document[at + removed :]])
    whole, parts = Corpus().add(pieces(document)).find(np.concatenate([text(preamble, seed + 2), edited]))
    missed = len(edited) - sum(chunk.tokens for chunk in whole) - sum(run.length for _, run in parts)
    assert missed <= inserted + 2 * (SHARED_RUN - 1), "a part too short for a fingerprint, on either side"


@pytest.mark.parametrize(
    ("at", "removed", "inserted"), [(20, 0, 12), (40, 15, 0), (215, 20, 20), (128, 1, 1), (238, 0, 2)]
)
def test_of_an_edited_chunk_both_ends_are_found_however_short(at: int, removed: int, inserted: int) -> None:
    """At its begin and end it touches chunks that are found whole."""
    chunks = np.array_split(text(768), 3)
    middle = np.concatenate([chunks[1][:at], text(inserted, 1), chunks[1][at + removed :]])
    whole, parts = Corpus().add(chunks).find(np.concatenate([chunks[0], middle, chunks[2]]))
    assert len(whole) == 2
    assert [(run.begin - 256, run.length) for _, run in parts] == [(0, at), (at + inserted, 256 - at - removed)]


@settings(deadline=None, max_examples=80)
@given(data=st.data(), vocabulary=st.sampled_from([1, 2, 3]), period=st.integers(1, 90))
def test_repeated_text_never_gives_wrong_tokens(data: st.DataObject, vocabulary: int, period: int) -> None:
    """`Corpus.find` compares every token."""
    repeated = np.tile(text(period, 3, vocabulary), 20)
    sizes = st.integers(1, 400)
    corpus = Corpus().add([repeated[: data.draw(sizes)] for _ in range(3)])
    corpus.find(
        np.concatenate([text(data.draw(sizes), 4, vocabulary), repeated, text(data.draw(sizes), 5, vocabulary)])
    )


def test_a_chunk_of_equal_tokens_is_found_as_often_as_it_fits() -> None:
    same = np.full(256, 7, np.uint32)
    whole, _ = Corpus().add([same]).find(np.concatenate([text(10), np.tile(same, 4), text(10, 1)]))
    assert sum(chunk.tokens for chunk in whole) >= 3 * 256


@settings(deadline=None, max_examples=60)
@given(
    lies=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 4095), st.integers(1, 4096), st.booleans()), max_size=60)
)
def test_a_node_that_lies_finds_nothing(lies: list[tuple[int, int, int, bool]]) -> None:
    """Fingerprints that collide, keys of other chunks, lengths that are none."""
    prompt = text(600)
    own = fingerprints(NAMESPACE, FINGERPRINT, prompt)
    other = text(300, 1)
    key = chunk_key(NAMESPACE, FINGERPRINT, other)
    matches = [ChunkMatch(i % len(own), key if known else NONE, offset, size) for i, offset, size, known in lies]
    assert whole_chunks(NAMESPACE, FINGERPRINT, prompt, own, matches) == []
    assert runs(prompt, other, diagonals(len(prompt), own, matches)) == []


def test_lies_without_end_cost_no_more_than_was_allowed() -> None:
    prompt = text(2000)
    own = fingerprints(NAMESPACE, FINGERPRINT, prompt)
    right = ChunkMatch(0, chunk_key(NAMESPACE, FINGERPRINT, prompt[:100]), own[0][0], 100)
    lies = [
        ChunkMatch(number % len(own), number.to_bytes(32, "big"), own[number % len(own)][0] - number % 9, 1000)
        for number in range(1000)
    ]
    assert whole_chunks(NAMESPACE, FINGERPRINT, prompt, own, [right, *lies]) == [], "a miss, in bounded time"
    assert len(whole_chunks(NAMESPACE, FINGERPRINT, prompt, own, [right, *lies[:50]])) == 1


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_runs_are_equal_maximal_and_apart(data: st.DataObject) -> None:
    vocabulary = data.draw(st.sampled_from([2, 50_000]))
    chunk = text(data.draw(st.integers(1, 300)), 1, vocabulary)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(chunk)), min_size=2, max_size=6)))
    prompt = np.concatenate([np.concatenate([chunk[a:b], text(3, b)]) for a, b in itertools.pairwise(cuts)])
    shifts = data.draw(st.lists(st.integers(-len(chunk), len(prompt)), max_size=8))
    at = 0
    for a, b in itertools.pairwise(cuts):
        shifts.append(at - a)
        at += b - a + 3
    guesses = [Diagonal(NONE, len(chunk), shift, 1) for shift in shifts]
    found = runs(prompt, chunk, guesses, 8)
    covered = np.zeros(len(prompt), int)
    for run in found:
        assert run.length >= 8
        assert prompt[run.begin : run.end].tolist() == chunk[run.source_begin : run.source_begin + run.length].tolist()
        covered[run.begin : run.end] += 1
    assert covered.max() <= 1
    assert [run.begin for run in found] == sorted(run.begin for run in found)
    for run in found:
        for place, source in ((run.begin - 1, run.source_begin - 1), (run.end, run.source_begin + run.length)):
            inside = 0 <= place < len(prompt) and 0 <= source < len(chunk)
            assert not inside or covered[place] or prompt[place] != chunk[source], "no run could be longer"
    if vocabulary > 2:
        kept = sum(b - a for a, b in itertools.pairwise(cuts) if b - a >= 8)
        assert sum(run.length for run in found) >= kept
