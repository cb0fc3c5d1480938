"""KV that a worker saves comes back as it was, wherever the same tokens begin a prompt."""

import numpy as np
import pytest
import torch

from kvquilt import Client, Document
from kvquilt.errors import BadRequestError
from kvquilt.worker import Extent, KvToSave
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import serve
from tests.worker.conftest import Worker, asked, assert_layers, tokens

CHUNK = 64


def save(worker, text, *, begin=0, end=None, **options):
    """Save the KV of a text's tokens, as the model computes it; what it computed."""
    end = len(text) if end is None else end
    layers = worker.computed(text[:end])
    cut = [tuple(np.ascontiguousarray(array[:, begin:end]) for array in layer) for layer in layers]
    request = asked(text[:end], **options)
    assert worker.cache.save(KvToSave(request, cut, exact_tokens=end, begin=begin))
    worker.cache.settle()
    assert worker.cache.counters()["saves_failed"] == 0
    return layers


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral with a window", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_a_longer_prompt_gets_bit_for_bit_what_was_saved_of_a_shorter_one(tmp_path, family, dtype):
    loaded = prepare(tiny(*SUPPORTED[family], dtype=dtype), None, "tiny")
    with serve(loaded, tmp_path, chunk_tokens=CHUNK, ungated=False) as address:
        worker = Worker(loaded, address)
        text = tokens(500)
        layers = save(worker, text, end=450)
        plan, got, report = worker.load(asked(text, extent=Extent.EXACT))
        # To the last whole block from the last place where every longer text is cut.
        assert 450 - CHUNK < plan.kv_tokens <= 450
        assert (plan.extent, plan.exact_tokens, plan.exact) == (Extent.EXACT, plan.kv_tokens, True)
        assert (report.complete, report.exact, report.kv_tokens) == (True, True, plan.kv_tokens)
        assert report.report.tokens_exact == plan.kv_tokens
        assert_layers(got, layers, 0, plan.kv_tokens)
        worker.cache.close()


def test_the_router_computes_nothing_for_it(worker, monkeypatch):
    text = tokens(300)
    layers = save(worker, text, end=280)

    def refused(*_, **__):
        raise AssertionError("the engine's thread was asked to compute")

    monkeypatch.setattr("kvquilt_router.engine_thread.EngineThread.run", refused)
    plan, got, report = worker.load(asked(text, extent=Extent.EXACT))
    assert report.complete
    assert_layers(got, layers, 0, plan.kv_tokens)


def test_each_turn_of_a_conversation_adds_only_what_is_new_and_finds_all_of_it(worker):
    text = tokens(900)
    known = 0
    for end in (200, 420, 460, 640, 900):
        plan, _, report = worker.load(asked(text[:end], extent=Extent.EXACT))
        assert plan.exact_tokens >= max(0, known - CHUNK)
        assert report.complete
        written = worker.cache.counters()["tokens_saved"]
        save(worker, text, begin=plan.exact_tokens, end=end)
        assert worker.cache.counters()["tokens_saved"] - written <= end - plan.exact_tokens
        known = end
    plan, got, _ = worker.load(asked(np.append(text, [5, 6]), extent=Extent.EXACT))
    assert plan.kv_tokens > 900 - CHUNK
    for index, layer in enumerate(worker.computed(text)):
        for kv, whole in zip(got[index], layer, strict=True):  # each turn was computed by itself: rounding differs
            np.testing.assert_allclose(kv, whole[:, : plan.kv_tokens], atol=2e-5)


def test_nothing_is_stored_twice(worker):
    text = tokens(400)
    save(worker, text)
    with Client(worker.address) as client:
        before = client.status().counters
        save(worker, text)
        after = client.status().counters
    assert after["chunks_saved"] == before["chunks_saved"] > 0
    assert after["chunks_saved_before"] == before["chunks_saved"]
    assert after["tokens_written"] == before["tokens_written"]


def test_what_the_worker_has_is_not_sent(worker):
    text = tokens(400)
    layers = save(worker, text)
    for computed in (1, 63, 150, 300):
        plan, got, report = worker.load(asked(text, extent=Extent.EXACT, computed_tokens=computed))
        assert plan.first_token == report.first_token == computed
        assert plan.kv_tokens == report.kv_tokens > computed
        assert report.bytes == worker.model.layout.nbytes(plan.tokens)
        assert_layers(got, layers, computed, plan.kv_tokens)


def test_where_the_worker_has_all_that_is_stored_nothing_is_offered(worker):
    text = tokens(400)
    save(worker, text, end=200)
    whole, _, _ = worker.load(asked(text, extent=Extent.EXACT))
    plan, got, report = worker.load(asked(text, extent=Extent.EXACT, computed_tokens=whole.kv_tokens))
    assert (plan.extent, plan.reason, plan.tokens) == (Extent.NOTHING, "nothing_new", 0)
    assert (got, report.complete, report.kv_tokens) == ({}, True, whole.kv_tokens)
    plan, _, _ = worker.load(asked(tokens(300, seed=9), extent=Extent.EXACT))
    assert (plan.extent, plan.reason) == (Extent.NOTHING, "nothing_stored")
    plan, _, _ = worker.load(asked(text, extent=Extent.PROMPT, computed_tokens=399))
    assert (plan.extent, plan.reason) == (Extent.NOTHING, "nothing_new")


def test_ranks_get_their_heads(worker):
    text = tokens(200)
    layers = save(worker, text)
    request = asked(text, extent=Extent.EXACT)
    for rank in (0, 1):
        plan, got, _ = worker.load(request, kv_heads=(rank, rank + 1))
        assert_layers(got, [tuple(array[rank : rank + 1] for array in layer) for layer in layers], 0, plan.kv_tokens)
    with pytest.raises(BadRequestError, match="2 heads"):
        worker.load(request, kv_heads=(1, 3))


def test_documents_are_found_by_their_boundaries_and_what_follows_them_too(worker):
    text = tokens(10, 150, 130, 200)
    layers = save(worker, text, prefix_tokens=10, document_tokens=(150, 130))
    plan, got, _ = worker.load(
        asked(np.append(text, [5, 6, 7]), extent=Extent.EXACT, prefix_tokens=10, document_tokens=(150, 130))
    )
    assert plan.kv_tokens > 490 - CHUNK
    assert_layers(got, layers, 0, plan.kv_tokens)
    # Another second document: the head goes to the end of the first one.
    other = np.concatenate([text[:160], tokens(100, seed=3), text[290:]])
    plan, got, report = worker.load(asked(other, extent=Extent.EXACT, prefix_tokens=10, document_tokens=(150, 100)))
    assert plan.kv_tokens == 160
    assert_layers(got, layers, 0, 160)
    assert {chunk.miss_reason for chunk in report.report.chunks if chunk.segment == 2} == {"not_stored"}


def test_what_a_prefetch_stored_in_this_context_counts_as_exact(tiny_model, tmp_path):
    with (
        serve(tiny_model, tmp_path, chunk_tokens=CHUNK, warm_up_passages=0) as address,
        Client(address) as client,
    ):
        worker = Worker(tiny_model, address)
        text = tokens(10, 200, 30)
        (done,) = client.prefetch(
            [Document("document", text[10:210].tolist())], shared_prefix=text[:10].tolist(), level="lossless"
        )
        assert done.stored > 2
        plan, got, report = worker.load(asked(text, extent=Extent.EXACT, prefix_tokens=10, document_tokens=(200,)))
        assert (plan.kv_tokens, report.exact) == (210, True)
        expected = worker.computed(text)
        for index, layer in enumerate(expected):
            for kv, whole in zip(got[index], layer, strict=True):
                np.testing.assert_allclose(kv, whole[:, :210], atol=2e-5)
        worker.cache.close()


def test_saved_chunks_are_blended_elsewhere(worker):
    """Exact chunks serve as what they are: in another place their KV is that of another context."""
    text = tokens(10, 150, 130, 20)
    save(worker, text, prefix_tokens=10, document_tokens=(150, 130))
    swapped = np.concatenate([text[:10], text[160:290], text[10:160], text[290:]])
    request = asked(swapped, extent=Extent.PROMPT, prefix_tokens=10, document_tokens=(130, 150))
    plan, _, report = worker.load(request)
    assert (plan.extent, plan.exact) == (Extent.PROMPT, False)
    assert report.complete
    assert not report.exact
    assert report.kv_tokens == len(swapped) - 1
    # Whole ends of documents: what follows a document is cut elsewhere, so its own last chunk may be missing.
    assert plan.blended_tokens >= 250
    assert report.report.tokens_reused + report.report.tokens_recomputed == plan.blended_tokens


def test_a_lossy_level_is_saved_and_loaded_at_that_level(worker):
    text = tokens(300)
    save(worker, text, level="high")
    plan, _, _ = worker.load(asked(text, extent=Extent.EXACT))
    assert plan.extent is Extent.NOTHING  # asked for lossless
    plan, got, report = worker.load(asked(text, extent=Extent.EXACT, level="high"))
    assert report.report.level == "high"
    for index, layer in enumerate(worker.computed(text)):
        for kv, whole in zip(got[index], layer, strict=True):
            error = np.linalg.norm(kv - whole[:, : plan.kv_tokens]) / np.linalg.norm(kv)
            assert 0 < error < 0.02
