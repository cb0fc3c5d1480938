"""The texts that ship: those that a benchmark measures on are apart from those that calibration learns from."""

import json
from pathlib import Path

import pytest

from kvquilt_router.calibration import cut
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.calibration.texts import ENOUGH_TOKENS, PIECE_TOKENS
from tests.docs.pages import ROOT

QA = sorted((ROOT / "bench" / "texts" / "qa").glob("*.jsonl"))
BENCH = sorted((ROOT / "bench" / "texts").glob("*.txt"))


def shingles(text: str) -> set[str]:
    """Every run of 50 characters, white space made one."""
    flat = " ".join(text.split())
    return {flat[begin : begin + 50] for begin in range(len(flat) - 49)}


def test_no_passage_is_shared_by_any_two_texts():
    seen: dict[str, str] = {}
    for name, content in [*((t.name, t.content) for t in shipped_texts()), *((p.name, p.read_text()) for p in BENCH)]:
        shared = {seen[shingle]: shingle for shingle in shingles(content) if shingle in seen}
        assert not shared, f"{name} shares a passage with {shared}"
        seen |= dict.fromkeys(shingles(content), name)


def test_no_passage_of_a_question_set_is_in_a_calibration_text():
    known = {shingle: t.name for t in shipped_texts() for shingle in shingles(t.content)}
    for path in QA:
        for passage in (p for line in path.read_text().splitlines() for p in json.loads(line)["passages"]):
            shared = {known[shingle]: shingle for shingle in shingles(passage["text"]) if shingle in known}
            assert not shared, f"{path.name}, {passage['title']} shares a passage with {shared}"


def test_calibration_texts_are_enough_and_every_kind_is_learned_from_and_measured_on(smollm2):
    texts = shipped_texts()
    corpus = cut(texts, smollm2.tokenise)
    assert corpus.training_tokens >= 26_000 > ENOUGH_TOKENS
    assert {len(piece.token_ids) for piece in (*corpus.training, *corpus.held_out)} == {PIECE_TOKENS}
    kinds = {text.name.rpartition("-")[0] for text in texts}
    held_out = {name.rpartition("-")[0] for name in corpus.description.rpartition(": ")[2].split(", ")}
    assert held_out == kinds == {"code", "documentation", "encyclopaedia", "prose"}


@pytest.mark.parametrize("path", BENCH, ids=lambda path: path.stem)
def test_a_bench_text_fills_a_context_and_its_continuation(path: Path, smollm2):
    assert len(smollm2.tokenise(path.read_text())) >= PIECE_TOKENS


@pytest.mark.parametrize("folder", ["router/kvquilt_router/calibration/corpus", "bench/texts"])
def test_every_text_is_named_in_the_notice_beside_it(folder: str):
    notice = (ROOT / folder / "NOTICE").read_text()
    for path in (*(ROOT / folder).glob("*.txt"), *(ROOT / folder).glob("qa/*.jsonl")):
        name, _, number = path.stem.rpartition("-")
        assert (name if number.isdigit() else path.stem) in notice, path
