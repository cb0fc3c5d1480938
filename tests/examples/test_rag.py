"""The examples of docs/rag.md run, hit what they prefetched, and answer without a router too."""

import rag_langchain
import rag_plain
from bm25 import BM25
from tests.stack import serve

QUESTION = "Which metal is the pendulum rod made of?"


def test_a_question_finds_its_passages_prefetches_them_and_reuses_them(smollm2, tmp_path, capsys):
    with serve(smollm2, tmp_path) as router:
        rag_plain.main([QUESTION, "--router", router, "--tokens", "2"])
        first = capsys.readouterr().out
        assert "asking over clocks" in first
        assert first.count("prefetched ") == rag_plain.CANDIDATES
        assert " 0 reused" not in first
        rag_langchain.main([QUESTION, "--router", router, "--tokens", "2"])
        assert "fresh=0" in capsys.readouterr().out


def test_without_a_router_the_question_is_answered_all_the_same(capsys):
    rag_plain.main([QUESTION, "--router", "127.0.0.1:1", "--tokens", "2"])
    said = capsys.readouterr().out
    assert "nothing prefetched" in said
    assert "computed without kvquilt: unavailable" in said


def test_rare_words_count_and_long_texts_do_not_win_by_length():
    texts = ["the glacier moves", "the bees fly " + "the " * 30, "the bees fly", "clocks"]
    assert BM25(texts).search("Do bees fly?", 2) == [2, 1]
