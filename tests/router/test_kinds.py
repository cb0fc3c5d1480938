"""Cases of the gate and of `kvquilt eval`: the passages of a prompt are of one kind of text."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvquilt.cli.texts import kinds_of as kinds_of_files
from kvquilt_router.calibration import cut
from kvquilt_router.calibration.texts import Text
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.cases import cases
from kvquilt_router.evaluation.kinds import MAX_KINDS, grouped
from kvquilt_router.evaluation.passages import PASSAGE_TOKENS, Cutter
from kvquilt_router.gate.measure import kinds_of
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words

KINDS = ("code", "letters", "prose")


def words(text):
    return np.array(Words()(text)["input_ids"], np.uint32)


def cutter():
    return Cutter(replace(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), tokenizer=Words()))


def decode(token_ids):
    return " ".join(map(str, token_ids))


def texts_of(kind, count, tokens=1000):
    return [Text(f"{kind}-{number}", " ".join([str(KINDS.index(kind) + 1)] * tokens), kind) for number in range(count)]


def test_a_prompts_passages_and_those_it_is_warmed_up_with_are_of_one_kind_and_kinds_take_turns():
    corpus = cut([text for kind in KINDS for text in texts_of(kind, 5)], words)
    kinds = kinds_of(corpus, cutter())
    assert {kind.name for kind in kinds} == set(KINDS)
    for kind in kinds:
        assert {int(token) for passage in (*kind.pool, *kind.warming) for token in passage} == {
            KINDS.index(kind.name) + 1
        }
        assert len(kind.warming) == 4
    made = list(cases(kinds, 12, head=words("9"), tokenise=words, decode=decode, tail=""))
    assert [case.kind for case in made] == [kind.name for kind in kinds] * 4
    asked = {case.kind: {bytes(other.prompt.question) for other in made if other.kind == case.kind} for case in made}
    assert all(len(questions) == 4 for questions in asked.values()), "each kind is asked every question"
    for case in made:
        assert {int(token) for passage in case.prompt.documents for token in passage} == {KINDS.index(case.kind) + 1}


def test_a_kind_that_nothing_was_learned_from_is_warmed_up_with_all_kinds():
    corpus = cut([*texts_of("code", 4), *texts_of("prose", 1, 3000)], words)
    (kind,) = (kind for kind in kinds_of(corpus, cutter()) if kind.name == "prose")
    assert {int(token) for passage in kind.warming for token in passage} == {1}


def test_passages_begin_and_end_where_lines_and_sentences_do_and_nothing_between_is_lost(smollm2):
    text = "".join(
        f"This is sentence number {n} of a text, and it is not a long one." + (" " if n % 3 else "\n")
        for n in range(90)
    )
    tokens = smollm2.tokenise(text)
    cut = [smollm2.tokenizer.decode(passage.tolist()) for passage in Cutter(smollm2).passages([tokens])]
    assert len(cut) > 5
    assert all(passage.rstrip().endswith("one.") and passage.endswith("\n\n") for passage in cut)
    assert all(passage.lstrip().startswith("This is") for passage in cut)
    joined = "".join(" ".join(cut).split())
    assert "".join(text.split()).startswith(joined)
    shortest, longest = PASSAGE_TOKENS
    assert all(shortest <= len(passage) <= longest + 2 for passage in Cutter(smollm2).passages([tokens]))
    assert len(tokens) - sum(map(len, Cutter(smollm2).passages([tokens]))) < shortest


@given(st.dictionaries(st.text("abc", max_size=3), st.lists(st.integers(1, 300), max_size=9), max_size=12))
def test_grouping_keeps_every_passage_and_leaves_no_group_too_small_beside_others(sizes):
    found = {kind: [np.zeros(size, np.uint32) for size in of_kind] for kind, of_kind in sizes.items()}
    groups = grouped(found, 4, 512)
    assert sorted(len(p) for group in groups for p in group.passages) == sorted(chain.from_iterable(sizes.values()))
    assert sorted(kind for group in groups for kind in group.kinds) == sorted(kind for kind in sizes if sizes[kind])
    assert len(groups) == 1 or all(len(group.passages) >= 4 and group.tokens >= 512 for group in groups)
    assert 1 <= len(groups) <= MAX_KINDS
    assert len({group.name for group in groups}) == len(groups)


def test_the_kind_of_a_file_is_its_folder_below_the_one_that_holds_all():
    def kinds(*files):
        return kinds_of_files([Path(file) for file in files])

    assert kinds("docs/a.txt", "docs/b.txt") == ["docs", "docs"]
    assert kinds("docs/api/a/1.txt", "docs/api/2.txt", "docs/guide/3.txt") == ["api", "api", "guide"]
    assert kinds("docs/README", "docs/guide/3.txt") == ["docs", "guide"]
    assert kinds("code/a.py", "/elsewhere/b.py")[1] == "elsewhere"
    assert kinds() == []
