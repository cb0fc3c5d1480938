"""How prompts are cut into chunks and named, and which stored variant serves a place best."""

import numpy as np
import pytest

from kvquilt_codec.catalog import ContextSource, ObjectInfo, ObjectMeta
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.gate import CONTEXTS
from kvquilt_codec.identity import Namespace, context_digest
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.planning import Planner
from kvquilt_router.types import Prompt
from kvquilt_router.variants import Place, best

MODEL = "a" * 64
HIGH = OperatingPoint(Level.HIGH, StorageForm(Level.HIGH))
CODED = StorageForm(Level.HIGH, "d" * 64)


def tokens(*values):
    return np.array(values, np.uint32)


def planner(chunk_tokens=8, namespace=None, model=MODEL):
    return Planner(namespace or Namespace.public(), model, chunk_tokens)


def plan(prompt, **options):
    return planner(**options).prompt(prompt, HIGH)


PROMPT = Prompt(tokens(1, 2, 3), (tokens(4, 5), tokens(6, 7, 8)), tokens(9))


def test_chunks_cover_the_context_in_order_and_the_prefix_is_lossless():
    refs = plan(PROMPT)
    assert [(ref.segment, ref.begin, ref.end) for ref in refs] == [(0, 0, 3), (1, 3, 5), (2, 5, 8)]
    assert np.concatenate([ref.token_ids for ref in refs]).tolist() == PROMPT.token_ids.tolist()[:-1]
    assert [ref.point.form for ref in refs] == [LOSSLESS, HIGH.form, HIGH.form]


def test_a_chunk_has_the_same_key_wherever_it_stands_and_another_for_another_model_or_namespace():
    swapped = Prompt(PROMPT.prefix, PROMPT.documents[::-1], PROMPT.question)
    assert plan(PROMPT)[1].chunk_key == plan(swapped)[2].chunk_key
    others = [plan(PROMPT, model="b" * 64), plan(PROMPT, namespace=Namespace("tenant", b"s" * 32))]
    assert plan(PROMPT)[1].chunk_key not in {ref.chunk_key for refs in others for ref in refs}


def test_long_documents_are_cut_by_their_content():
    document = np.random.default_rng(0).integers(0, 40_000, 400).astype(np.uint32)
    whole = plan(Prompt(tokens(1), (document,), tokens(9)), chunk_tokens=64)[1:]
    assert all(32 <= ref.end - ref.begin <= 128 for ref in whole)
    edited = np.concatenate([document[:90], tokens(7, 7, 7), document[95:]])
    again = plan(Prompt(tokens(1), (edited,), tokens(9)), chunk_tokens=64)[1:]
    assert len({ref.chunk_key for ref in whole} - {ref.chunk_key for ref in again}) <= 2


def test_empty_documents_and_questions_are_refused():
    with pytest.raises(BadRequestError, match="document 1"):
        plan(Prompt(tokens(1), (tokens(),), tokens(9)))
    with pytest.raises(BadRequestError, match="question"):
        plan(Prompt(tokens(1), (), tokens()))


KEY, PREVIOUS, ANOTHER = b"k" * 32, b"p" * 32, b"o" * 32
PREFIX = tokens(1, 2, 3)
BEFORE = tokens(1, 2, 3, 10, 11)


def stored(context, form=HIGH.form, sources=(), kind=VariantKind.WARM, length=4):
    digest = context_digest(tokens(*context))
    pieces = tuple(ContextSource(key, 2, 0.0) for key in sources)
    meta = ObjectMeta(MODEL, (), length, kind, form, 0.1, KEY, digest, context_digest(PREFIX), pieces)
    return ObjectInfo(digest + form.name.encode(), meta, 100, 0.0, 0.0, 0)


EXACT = stored([1, 2, 3, 10, 11])
PAIR = stored([1, 2, 3, 50, 51, 10, 11], sources=(ANOTHER, PREVIOUS), kind=VariantKind.PAIR)
STRANGER = stored([1, 2, 3, 60, 61], sources=(ANOTHER,), kind=VariantKind.PAIR)
WARM = stored([1, 2, 3, 70, 71], sources=(ANOTHER,))
BASE = stored([1, 2, 3], kind=VariantKind.BASE)
ELSEWHERE = stored([1, 2, 3, 80, 81, 10, 11], sources=(ANOTHER, PREVIOUS), kind=VariantKind.EXACT)
"""Computed after its true neighbour and more, but without a record of how far it depends on them."""


def place():
    return Place(BEFORE, context_digest(PREFIX), PREVIOUS, [(PREVIOUS, len(PREFIX))])


def test_the_context_of_a_stored_variant_is_told_by_digests_and_neighbours_not_by_its_name():
    stored_ones = (EXACT, PAIR, STRANGER, WARM, BASE, ELSEWHERE)
    assert [place().context(info) for info in stored_ones] == ["exact", "pair", "warm", "warm", "base", "base"]
    first = Place(PREFIX, context_digest(PREFIX), None, [])
    assert first.context(BASE) == "exact", "right after the shared prefix, that is all that precedes it"


def test_the_nearest_context_wins_then_the_form_that_is_asked_for():
    assert best([BASE, WARM, PAIR, EXACT], place(), 4, HIGH, CONTEXTS).info is EXACT
    assert best([BASE, WARM, PAIR], place(), 4, HIGH, ("exact", "warm", "pair", "base")).info is WARM
    lossless = stored([1, 2, 3, 70, 71], LOSSLESS, (ANOTHER,))
    assert best([lossless, WARM], place(), 4, HIGH, CONTEXTS).info is WARM
    found = best([lossless], place(), 4, HIGH, CONTEXTS)
    assert (found.info, found.point) == (lossless, LOSSLESS_POINT), "what is better than asked for serves"
    assert best([WARM], place(), 4, LOSSLESS_POINT, CONTEXTS) is None, "what is worse does not"


def test_other_profiles_lengths_and_contexts_that_may_not_be_used_are_left_out():
    coded = stored([1, 2, 3, 70, 71], CODED, (ANOTHER,))
    assert best([coded], place(), 4, HIGH, CONTEXTS) is None
    assert best([WARM], place(), 5, HIGH, CONTEXTS) is None
    assert best([BASE, WARM], place(), 4, HIGH, ("exact", "pair")) is None
    assert best([], place(), 4, HIGH, CONTEXTS) is None
