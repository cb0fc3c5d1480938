"""The TTFT benchmark compares like with like: the same prompts, distributions and sessions, off and on."""

import random
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.stack import serve
from ttft import sessions
from ttft.cases import Case, figure, measure, row, shown
from ttft.prompts import Prompts
from ttft.replay import WAYS, replay
from ttft.texts import KINDS, asked, measured, passages_of
from ttft.transformers_engine import TransformersEngine
from ttft.types import FirstToken, Shot


@pytest.fixture(scope="module")
def prompts(smollm2):  # whose folder the fixture has made
    return Prompts("smollm2")


def test_prompts_are_the_same_in_every_run_and_no_order_comes_twice(prompts):
    drawn = prompts.drawn(asked(0), 4, 600, seed=3)
    assert drawn == prompts.drawn(asked(0), 4, 600, seed=3)
    assert len({prompt.documents for prompt in drawn}) == 4
    for prompt in drawn:
        assert 400 <= prompt.context_tokens <= 1000  # a question's own passages are always there
        assert len(prompt.token_ids) == sum(map(len, prompt.tokens))
        assert len(prompt.tokens) == len(prompt.documents) + 2


def test_the_gate_is_measured_on_no_passage_of_a_blended_prompt(smollm2):
    corpus = measured(smollm2)
    asked_about = {passage for kind in KINDS for passage in passages_of(kind)}
    text = [smollm2.tokenizer.decode(piece.token_ids.tolist()) for piece in (*corpus.training, *corpus.held_out)]
    assert not [passage for passage in asked_about if any(passage in piece for piece in text)]


def test_divergence_is_that_of_the_whole_distribution_where_few_tokens_have_it_all():
    rng = np.random.default_rng(0)
    logits, other = rng.normal(size=500) * 6, rng.normal(size=500) * 6
    p, q = (np.exp(side) / np.exp(side).sum() for side in (logits, other))
    exact = float((p * np.log(p / q)).sum())
    first = FirstToken.of_logits(logits)
    assert first.kl(FirstToken.of_logits(other)) <= exact
    assert first.kl(first) == 0
    near = logits + rng.normal(size=500) * 0.1
    q = np.exp(near) / np.exp(near).sum()
    assert first.kl(FirstToken.of_logits(near)) == pytest.approx(float((p * np.log(p / q)).sum()), rel=0.05)
    pairs = {str(token): float(value) for token, value in zip(first.ids, first.log_probs, strict=True)}
    assert FirstToken.of_pairs(pairs).kl(first) == 0


def test_a_row_counts_what_is_beyond_the_slack_and_says_whether_its_figure_is_reached():
    first = FirstToken.of_logits(np.array([1.0, 0.0]))
    pairs = [(Shot(1.0, first), Shot(seconds, first, {"exact": 7}, "late")) for seconds in (1.5, 1.6, 3.0)]
    made = row("vllm", Case("router-down", 10, 1.1, slack=0.5, kinds=("exact",)), [10, 20, 30], pairs)
    assert made["ratio"] == pytest.approx(1.1)
    assert made["worst_ratio"] == pytest.approx(2.5)
    assert (made["context_tokens"], made["tokens_exact"], made["notes"]) == (20, 7, ["late"])
    assert figure(made | {"ratio": 1.2})["reached"] == "no"
    assert figure(made | {"ratio": 1.0})["reached"] == "yes"
    assert [row["case"] for row in shown([made])] == ["router-down"]
    other = row("vllm", Case("blended", 10, 9.0, kinds=("reused", "recomputed")), [10, 20, 30], pairs)
    assert figure(other)["reached"] == "not measured", "whatever was fast, it was no blend"


def test_every_turn_of_a_conversation_begins_with_the_turn_before(prompts):
    words = sessions.Words(["one two three four five", "six seven eight"], prompts.count)
    made = sessions.conversations(2, 4, sessions.lengths(None), words, random.Random(1))
    for session in made:
        for before, after in pairwise(session):
            head = "".join((*before.documents, before.question))
            assert "".join(after.documents).startswith(head)
    ranked = sessions.rag_sessions(2, 3, sessions.lengths(None), words, random.Random(1))
    for session in ranked:
        for before, after in pairwise(session):
            assert before.documents != after.documents
            assert set(before.documents) & set(after.documents)


def test_a_case_is_measured_and_a_session_replayed_on_a_real_router_and_without_one(smollm2, tmp_path, prompts):
    threads = torch.get_num_threads()
    drawn = prompts.drawn(asked(0), 2, 300, seed=1)
    with serve(smollm2, tmp_path, warm_up_passages=0) as router:
        engine = TransformersEngine(router, "float32", threads)
        told = []
        made = measure(engine, Case("miss", 300, 1.05), drawn, lambda: told.append(1), level="lossless")
        assert len(told) == 2
        assert made["requests"] == 1
        assert made["first_token_kl"] < 1e-3
        assert made["tokens_exact"] + made["tokens_computed"] == len(drawn[1].token_ids)
        for way, session in zip(WAYS.values(), drawn, strict=True):
            found = replay(engine, "questions", [[session, session]], router, lambda: None, way, level="lossless")
            assert found["requests"] == 2
            hits = found["hit_rate_exact"] + found["hit_rate_blended"]
            assert 0.35 < hits <= 0.5, f"{way.name}: the first misses, the second hits"
    down = engine.on(drawn[0])
    assert down.note == "unavailable"
    assert engine.off(drawn[0]).first.kl(down.first) == 0
    engine.close()
