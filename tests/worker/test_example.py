"""The example of docs/writing-a-connector.md: an engine that loads and saves generates what it does without."""

import numpy as np
import torch

from examples.connector import Connector
from kvquilt.worker import Extent
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import serve
from tests.worker.conftest import tokens

COUNT = 8


def plain(model, token_ids, count):
    ids = torch.from_numpy(token_ids.astype(np.int64))[None]
    output = model.generate(ids, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids))
    return output[0, len(token_ids) :].tolist()


def conversed(model, loaded, turns, tmp_path, **settings):
    """Turns of a conversation, each after the answer before it; what was loaded for each."""
    with serve(loaded, tmp_path, ungated=False, **settings) as address:
        # By estimates a tiny model computes sooner than anything is loaded.
        connector = Connector(loaded, model, address, Extent.EXACT)
        text, had = np.empty(0, np.uint32), []
        for turn in turns:
            text = np.concatenate([text, turn]).astype(np.uint32)
            before = connector.cache.counters()["tokens_loaded"]
            answer = connector.generate(text, COUNT)
            assert answer.tolist() == plain(model, text, COUNT)
            connector.cache.settle()
            had.append((len(text), connector.cache.counters()["tokens_loaded"] - before))
            text = np.concatenate([text, answer])
        counters = connector.cache.counters()
        assert counters["saves_failed"] == counters["plans_failed"] == counters["loads_failed"] == 0
        connector.cache.close()
    return had


def test_each_turn_of_a_conversation_loads_the_turns_before_it(tmp_path):
    model = tiny(*SUPPORTED["llama"])
    loaded = prepare(model, None, "tiny")
    turns = [tokens(length, seed=length) for length in (150, 60, 90)]
    (_, first), (_, second), (_, third) = conversed(model, loaded, turns, tmp_path, chunk_tokens=32)
    assert first == 0
    assert 150 + COUNT - 1 - 32 < second < 150 + COUNT
    assert 210 + 2 * COUNT - 1 - 32 < third < 210 + 2 * COUNT


def test_with_the_demo_model_too(smollm2, passages, tmp_path):
    turns = [smollm2.tokenise(text) for text in (passages[0], " What is this about?")]
    model = smollm2.engine._runner.model
    (length, first), (_, second) = conversed(model, smollm2, turns, tmp_path, chunk_tokens=64)
    assert first == 0
    assert length + COUNT - 1 - 64 < second < length + COUNT
