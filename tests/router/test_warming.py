"""Warm-up passages: fixed per corpus, of its own text where there is enough of it."""

import numpy as np
import pytest

from kvquilt_router.computing import VariantComputer
from kvquilt_router.engine import Engine
from kvquilt_router.precompute import Precomputer
from kvquilt_router.warming import DOCUMENTS_PER_PASSAGE, MIN_PASSAGE_TOKENS, PASSAGE_TOKENS, WarmUps, without
from tests.router.assemblies import engine_of
from tests.router.test_planning import HIGH, planner


def documents(count, length=300, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 500, length).astype(np.uint32) for _ in range(count)]


def shipped(text):
    return np.array([len(text) % 400 + 3] * 500, np.uint32)


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_corpus_is_warmed_by_its_own_documents_and_the_choice_stays():
    warm_ups = WarmUps(2, shipped)
    first = documents(2 * DOCUMENTS_PER_PASSAGE)
    chosen = warm_ups.choose("papers", first)
    assert [len(passage) for passage in chosen] == [PASSAGE_TOKENS] * 2
    assert all(any(np.array_equal(p, d[:PASSAGE_TOKENS]) for d in first) for p in chosen)
    assert same(warm_ups.choose("papers", documents(40, seed=1)), chosen), "fixed from the first choice on"
    assert same(warm_ups.of("papers"), chosen)
    assert not same(warm_ups.choose("mails", documents(40, seed=1)), chosen), "each corpus has its own"


@pytest.mark.parametrize(("count", "passages"), [(4, 2), (7, 3), (10, 5), (16, 8), (40, 8)])
def test_a_small_corpus_gives_fewer_passages_rather_than_others_of_another_kind(count, passages):
    own = documents(count)
    chosen = WarmUps(8, shipped).choose("papers", own)
    assert len(chosen) == passages
    assert all(any(np.array_equal(p, d[:PASSAGE_TOKENS]) for d in own) for p in chosen)


def test_given_passages_replace_what_is_remembered():
    warm_ups = WarmUps(2, shipped)
    warm_ups.choose("papers", documents(8))
    given = documents(1, 50, seed=9)
    assert same(warm_ups.choose("papers", documents(8), given), given)
    assert same(warm_ups.choose("papers", documents(8)), given)


def test_few_or_short_documents_are_warmed_by_other_text_until_there_are_enough():
    warm_ups = WarmUps(2, shipped)
    fallback = warm_ups.choose("papers", documents(2 * DOCUMENTS_PER_PASSAGE - 1))
    assert same(fallback, warm_ups.of("never seen"))
    assert same(warm_ups.choose("papers", documents(40, MIN_PASSAGE_TOKENS - 1)), fallback)
    assert [len(passage) for passage in fallback] == [PASSAGE_TOKENS] * 2
    enough = documents(2 * DOCUMENTS_PER_PASSAGE)
    assert not same(warm_ups.choose("papers", enough), fallback)


def test_without_a_tokenizer_other_text_cannot_warm():
    warm_ups = WarmUps(2, None)
    assert warm_ups.of("papers") == ()
    assert len(warm_ups.choose("papers", documents(8))) == 2


def test_no_passages_are_none_whatever_is_given():
    warm_ups = WarmUps(0, shipped)
    assert warm_ups.choose("papers", documents(40), documents(1)) == warm_ups.of("papers") == ()


def test_corpora_are_forgotten_one_by_one(monkeypatch):
    monkeypatch.setattr("kvquilt_router.warming.CORPORA_KEPT", 2)
    warm_ups = WarmUps(1, None)
    kept = {name: warm_ups.choose(name, documents(4, seed=seed)) for seed, name in enumerate("abc")}
    assert warm_ups.of("a") == ()
    assert same(warm_ups.of("b"), kept["b"])
    assert same(warm_ups.of("c"), kept["c"])


def test_a_chunk_is_not_computed_after_itself():
    first, second = documents(2)
    assert same(without([first[:PASSAGE_TOKENS], second[:PASSAGE_TOKENS]], first), [second[:PASSAGE_TOKENS]])
    assert same(without([first[:PASSAGE_TOKENS]], first[:10]), []), "nor after one that it begins"
    edited = first.copy()
    edited[0] ^= 1
    assert same(without([first[:PASSAGE_TOKENS]], edited), [first[:PASSAGE_TOKENS]])


@pytest.fixture
def precomputer():
    plan = planner(64)
    return Precomputer(VariantComputer(engine_of("llama"), plan), None, plan, None, None, None, stat_deadline=1.0)


def test_chunks_are_computed_after_the_passages_and_their_documents_earlier_chunks(precomputer):
    prefix, (document, *passages) = documents(1, 5, seed=7)[0], documents(3)
    refs = list(planner(64).document(document, HIGH))
    assert len(refs) > 2
    jobs = precomputer.jobs(prefix, refs, passages, ("id",))
    assert [job.kind.value for job in jobs] == ["warm"] + ["pair"] * (len(refs) - 1)
    for number, job in enumerate(jobs):
        assert same(job.sources, [*passages, *(ref.token_ids for ref in refs[:number])])
        assert job.documents == ("id",)
    own = precomputer.jobs(prefix, refs, [document[:PASSAGE_TOKENS], passages[0]])
    assert same(own[0].sources, passages[:1]), "not after its own beginning"
    assert [job.kind.value for job in precomputer.jobs(prefix, refs[:1], [])] == ["base"]


def test_the_context_of_long_documents_is_bounded(precomputer, monkeypatch):
    monkeypatch.setattr("kvquilt_router.precompute.DOCUMENT_CONTEXT_TOKENS", 200)
    prefix, document = documents(1, 5, seed=7)[0], documents(1, 2000)[0]
    jobs = precomputer.jobs(prefix, list(planner(64).document(document, HIGH)), [])
    sizes = [sum(map(len, job.sources)) + len(job.ref.token_ids) for job in jobs]
    assert max(sizes) <= 200
    assert [job.kind.value for job in jobs].count("base") > 1, "it begins anew"


def test_what_has_no_room_in_the_models_context_is_left_out_from_the_beginning():
    engine: Engine = engine_of("llama")
    computer = VariantComputer(engine, planner())
    room = engine.traits.max_context
    prefix, chunk, near, far = (np.ones(n, np.uint32) for n in (100, 200, 300, room - 600))
    assert [len(part) for part in computer.fitting(prefix, [far, near], chunk)] == [len(far), 300]
    assert [len(part) for part in computer.fitting(prefix, [far, near], np.ones(201, np.uint32))] == [300]
    assert computer.fitting(prefix, [near], np.ones(room - 300, np.uint32)) == ()
