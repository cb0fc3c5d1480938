"""Known text in prompts that come without boundaries, and in documents that were edited."""

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import serve

TEXT = np.random.default_rng(0).integers(3, 500, 2048).astype(np.uint32)
QUESTION = [7, 8, 9, 10, 11, 12]


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def client(model, tmp_path):
    settings = {"background": False, "chunk_tokens": 256, "warm_up_passages": 0}
    with serve(model, tmp_path, **settings) as router, Client(router) as client:
        list(client.prefetch([Document("text", TEXT.tolist())], shared_prefix=[5, 6]))
        yield client


def kv(blended):
    return [np.stack([layer.keys, layer.values]).astype(np.float32) for layer in blended.layers]


def full(client, tokens):
    return client.blend_plain(tokens, policy="full")


def test_a_document_behind_a_preamble_is_found_to_its_last_token(client):
    preamble = list(range(100, 110))
    prompt = [5, 6, *preamble, *TEXT.tolist(), *QUESTION]
    report = client.blend_plain(prompt, policy="none").report
    assert report.tokens_reused == len(TEXT)
    assert report.tokens_exact == 2, "the shared prefix"
    assert report.tokens_computed == len(preamble) + len(QUESTION)


def test_a_plain_prompt_that_begins_as_stored_is_exact(client):
    prompt = [5, 6, *TEXT.tolist(), *QUESTION]
    blended = client.blend_plain(prompt, policy="none")
    assert blended.report.tokens_exact == 2 + len(TEXT)
    for ours, theirs in zip(kv(blended), kv(full(client, prompt)), strict=True):
        assert np.abs(ours - theirs).max() < 0.05 * np.abs(theirs).max(), "what 8 bits cost"


def test_unknown_text_is_computed_and_gives_what_a_full_prefill_gives(client):
    prompt = np.random.default_rng(1).integers(3, 500, 300).tolist()
    blended = client.blend_plain(prompt)
    assert (blended.report.tokens_reused, blended.report.tokens_exact) == (0, 0)
    for ours, theirs in zip(kv(blended), kv(full(client, prompt)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize(("removed", "inserted"), [(12, 12), (0, 9), (15, 0)], ids=["replaced", "inserted", "deleted"])
def test_of_an_edited_document_only_the_edit_is_computed_and_a_window_after_it_again(client, removed, inserted):
    place = 1000
    edited = np.concatenate([TEXT[:place], np.arange(200, 200 + inserted, dtype=np.uint32), TEXT[place + removed :]])
    blended = client.blend([edited.tolist(), QUESTION], shared_prefix=[5, 6], policy="none")
    report = blended.report
    assert report.tokens_computed == inserted + len(QUESTION)
    assert report.tokens_recomputed == 32, "the window"
    assert report.tokens_exact == 2 + place, "what precedes the edit is where it was"
    assert report.tokens_reused == len(edited) - place - inserted - 32
    computed = full(client, [5, 6, *edited.tolist(), *QUESTION])
    for ours, theirs in zip(kv(blended), kv(computed), strict=True):
        # Keys after the edit have moved; those of the first layer depend on token and position alone.
        assert np.abs(ours[:, : 2 + place] - theirs[:, : 2 + place]).max() < 0.05 * np.abs(theirs).max()
    first, expected = kv(blended)[0], kv(computed)[0]
    assert np.abs(first - expected).max() < 0.05 * np.abs(expected).max()


def test_a_plain_prompt_and_segments_together_are_refused(client):
    from kvquilt.errors import BadRequestError
    from kvquilt_proto.v1 import router_pb2 as pb

    message = pb.Prompt(plain=pb.Content(text="a"), question=pb.Content(text="b"))
    with pytest.raises(BadRequestError, match="both"):
        client._run(client._client._blend(message, pb.BlendOptions(), "", 10.0))
