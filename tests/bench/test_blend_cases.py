"""Cases of the blend benchmark: the same every time, apart from what chunks are warmed up with, and kept when done."""

import re
from zlib import crc32

import numpy as np
import pytest

from blend.continuation import ContinuationSet
from blend.edits import KINDS, EditSet, common
from blend.facts import FactSet
from blend.passages import Frame, PassageSet
from blend.record import Record
from blend.running import Run
from blend.sets import Planned
from blend.trials import QUICK
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.types import EMPTY, Case
from kvquilt_router.types import Prompt
from tests.router.families import SUPPORTED, tiny


def tokenise(text):
    """Words and white space, each a token."""
    return np.array([crc32(part.encode()) % (1 << 31) for part in re.findall(r"\s|[^\s.]+|\.", text)], np.uint32)


OWNER = -3
"""Where a question that ends in "Dr. NAME is" has the name."""
FRAME = Frame(tokenise, "<head>", "<tail>")
QUESTIONS = {name: PassageSet(name, FRAME, 600) for name in ("multi-hop", "single-hop")}
SETS = {
    **QUESTIONS,
    "facts": FactSet(QUESTIONS["multi-hop"], 600),
    "continuation": ContinuationSet(tokenise, tokenise("<head>"), 600),
    **{f"edit-{kind}": EditSet(QUESTIONS["multi-hop"], 600, kind) for kind in KINDS},
}


def tokens(case):
    return [case.prompt.token_ids.tolist(), [len(d) for d in case.prompt.documents], case.answer.tolist()]


@pytest.mark.parametrize("name", SETS)
def test_the_same_number_gives_the_same_case_however_many_are_asked_for(name):
    few, more = list(SETS[name].cases(2)), list(SETS[name].cases(4))
    assert [tokens(case) for case in few] == [tokens(case) for case in more[:2]]
    assert len({case.name for case in more}) == 4


def runs_of(token_ids, length):
    return {tuple(token_ids[begin : begin + length].tolist()) for begin in range(len(token_ids) - length + 1)}


@pytest.mark.parametrize("name", SETS)
def test_no_case_holds_a_passage_that_chunks_are_warmed_up_with(name):
    warm = set().union(*(runs_of(tokens, 40) for kept in SETS[name].warm_ups().values() for tokens in kept), set())
    cases = list(SETS[name].cases(40))
    assert len(cases) >= 8
    for case in cases:
        for document in case.prompt.documents:
            assert not warm & runs_of(document, 40), case.name


def test_a_facts_owner_and_number_are_in_neighbouring_chunks_and_together_in_none():
    for case in SETS["facts"].cases(12):
        owner = case.prompt.question[OWNER]
        with_owner = [index for index, d in enumerate(case.prompt.documents) if owner in d]
        with_answer = [index for index, d in enumerate(case.prompt.documents) if case.answer[-1] in d]
        assert with_answer == [with_owner[0] + 1]
        assert with_owner[0] > 0, "the first chunk is exact in every variant"


def test_what_an_edit_leaves_is_found_and_what_it_changed_is_not():
    for kind in KINDS:
        for case in SETS[f"edit-{kind}"].cases(8):
            document = case.prompt.documents[0]
            known = np.zeros(len(document), bool)
            for run in common(case.before, document):
                source = case.before[run.source_begin : run.source_begin + run.length]
                assert np.array_equal(source, document[run.begin : run.end])
                assert not known[run.begin : run.end].any()
                known[run.begin : run.end] = True
            changed = case.answer[-1] if kind == "number" else case.prompt.question[OWNER]
            assert changed in document[~known], "the new number or owner must be computed"
            assert 1 <= (~known).sum() <= 40


class TinySet:
    """Two cases of few tokens."""

    name = "tiny"
    prefix = np.arange(3, 9, dtype=np.uint32)

    def warm_ups(self):
        return {trial.warm_up: [np.arange(20, 30, dtype=np.uint32)] for trial in QUICK}

    def cases(self, count):
        for number in range(count):
            ids = np.random.default_rng(number).integers(3, 500, 45).astype(np.uint32)
            prompt = Prompt(self.prefix, (ids[:12], ids[12:26], ids[26:40]), ids[40:])
            yield Case(f"tiny-{number}", self.name, prompt, EMPTY)


def test_an_interrupted_run_goes_on_and_puts_nothing_on_record_twice(tmp_path):
    model = prepare(tiny(*SUPPORTED["llama"]), None, "tiny")
    path = tmp_path / "cases.jsonl"

    def run(conditions):
        return Run(model, Planned(TinySet(), 2, ()), QUICK, {}, Record(path), conditions, anchors=False)

    begun = run({"tokens": 1})
    assert begun.steps() == 2 * len(QUICK)
    next(begun(lambda *_: None))  # one case, then it is cut off
    with path.open("ab") as opened:
        opened.write(b'{"digest": "half a li')
    assert run({"tokens": 1}).steps() == len(QUICK)
    list(run({"tokens": 1})(lambda *_: None))
    whole = path.read_bytes()
    assert len(whole.splitlines()) == 2
    list(run({"tokens": 1})(lambda *_: None))
    assert path.read_bytes() == whole, "nothing is left to do"
    finished = run({"tokens": 1}).finished
    assert {name: [t.trial for line in lines for t in line.tried] for name, lines in finished.items()} == {
        "tiny-0": list(QUICK),
        "tiny-1": list(QUICK),
    }
    full = {t.trial.policy: t.outcome for t in finished["tiny-0"][0].tried}["full"]
    assert full.kl < 1e-5
    assert full.right
    assert run({"tokens": 2}).steps() == 2 * len(QUICK), "under other conditions nothing is known"
