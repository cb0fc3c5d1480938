"""How prompts are cut into chunks and named."""

import numpy as np
import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.identity import Namespace
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.planning import Planner
from kvquilt_router.types import Prompt

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


def test_chunks_cover_the_context_in_order():
    refs = plan(PROMPT)
    assert [(ref.segment, ref.begin, ref.end) for ref in refs] == [(0, 0, 3), (1, 3, 5), (2, 5, 8)]
    assert np.concatenate([ref.token_ids for ref in refs]).tolist() == PROMPT.token_ids.tolist()[:-1]


def test_the_prefix_is_exact_and_lossless_and_documents_are_base_variants_after_it():
    prefix, first, second = plan(PROMPT)
    assert (prefix.kind, prefix.point.form, prefix.in_exact_context) == (VariantKind.EXACT, LOSSLESS, True)
    assert (first.kind, first.point, first.context.tolist()) == (VariantKind.BASE, HIGH, [1, 2, 3])
    assert second.kind is VariantKind.BASE


def test_only_the_chunk_right_after_the_prefix_is_in_its_exact_context():
    assert [ref.in_exact_context for ref in plan(PROMPT)] == [True, True, False]


def test_a_chunk_has_the_same_key_wherever_it_stands():
    swapped = Prompt(PROMPT.prefix, PROMPT.documents[::-1], PROMPT.question)
    assert plan(PROMPT)[1].object_key == plan(swapped)[2].object_key


@pytest.mark.parametrize(
    "other",
    [
        plan(Prompt(tokens(1, 2), PROMPT.documents, PROMPT.question)),
        plan(PROMPT, model="b" * 64),
        plan(PROMPT, namespace=Namespace("tenant", b"s" * 32)),
        planner().prompt(PROMPT, LOSSLESS_POINT),
        planner().prompt(PROMPT, OperatingPoint(Level.HIGH, CODED)),
    ],
    ids=["prefix", "model", "namespace", "lossless", "profile"],
)
def test_another_prefix_model_namespace_or_form_is_another_object(other):
    assert plan(PROMPT)[1].object_key not in {ref.object_key for ref in other}


def test_all_levels_of_a_profile_are_one_object():
    high = planner().prompt(PROMPT, OperatingPoint(Level.HIGH, CODED, 3))
    low = planner().prompt(PROMPT, OperatingPoint(Level.LOW, CODED, 1))
    assert [ref.object_key for ref in high] == [ref.object_key for ref in low]
    assert [ref.point.quality_layers for ref in low] == [0, 1, 1], "the shared prefix stays lossless"


def test_long_documents_are_cut_into_pieces_of_about_equal_length():
    refs = plan(Prompt(tokens(1), (np.arange(20, dtype=np.uint32),), tokens(9)))
    assert [ref.end - ref.begin for ref in refs[1:]] == [7, 7, 6]
    assert [ref.segment for ref in refs[1:]] == [1, 1, 1]


def test_without_a_shared_prefix_chunks_stand_for_themselves():
    refs = plan(Prompt(tokens(), (tokens(4, 5),), tokens(9)))
    assert len(refs) == 1
    assert refs[0].context.size == 0


def test_empty_documents_and_questions_are_refused():
    with pytest.raises(BadRequestError, match="document 1"):
        plan(Prompt(tokens(1), (tokens(),), tokens(9)))
    with pytest.raises(BadRequestError, match="question"):
        plan(Prompt(tokens(1), (), tokens()))
