"""What a request leaves behind is stored after it, in the context that it says, and found by later ones."""

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_codec import container
from kvquilt_codec.identity import context_digest
from kvquilt_router.engine.model import prepare
from kvquilt_router.policies.ranking import highest
from tests.router.families import SUPPORTED, tiny
from tests.stack import blobs, eventually, router_only, serve

_RNG = np.random.default_rng(0)
PREFIX, FIRST, SECOND, THIRD, WARM = (_RNG.integers(3, 500, n).tolist() for n in (9, 80, 70, 90, 60))
DOCUMENTS = [FIRST, SECOND, THIRD]
QUESTION, ANOTHER = [7, 8, 9, 10], [11, 12, 13, 14, 15]
LOSSLESS = {"level": "lossless", "shared_prefix": PREFIX}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def served(model, tmp_path):
    with serve(model, tmp_path) as address, Client(address) as client:
        yield client


def prefetch(client, documents=DOCUMENTS, **options):
    named = [Document(f"document {number}", content) for number, content in enumerate(documents)]
    done = list(client.prefetch(named, **LOSSLESS, warm_up=[WARM], **options))
    assert not any(item.failed for item in done)


def blend(client, *segments, **options):
    return client.blend([*segments], **LOSSLESS, **options)


def contexts(report):
    return [chunk.context for chunk in report.chunks]


def stored(client, count):
    """Wait until so many objects were stored in the background."""
    eventually(lambda: client.status().counters["background_stored"] >= count)
    assert client.status().counters["background_stored"] == count


def in_full(model, tokens):
    """Keys and values of a full prefill, per layer `[tokens, kv_heads, dim]`."""
    layers = model.engine.prefill(np.asarray(tokens, np.uint32))
    chunk = model.engine.to_chunk(np.asarray(tokens, np.uint32), layers, 0, unrotate=False)
    return list(zip(chunk.keys, chunk.values, strict=True))


def equal_to_full_prefill(model, kv):
    for layer, (keys, values) in zip(kv.layers, in_full(model, kv.token_ids[:-1]), strict=True):
        np.testing.assert_allclose(layer.keys, keys, atol=5e-4)
        np.testing.assert_allclose(layer.values, values, atol=5e-4)


def test_missed_chunks_are_computed_at_once_and_stored_in_the_background(model, served):
    first = blend(served, *DOCUMENTS, QUESTION)
    assert [chunk.miss_reason for chunk in first.report.chunks] == ["not_stored"] * 4
    assert first.report.tokens_computed == len(first.token_ids)
    equal_to_full_prefill(model, first)
    # The shared prefix; each document in its exact context; all but the first also as a prefetch would have them.
    stored(served, 1 + 3 + 2)
    again = blend(served, *DOCUMENTS, QUESTION)
    assert contexts(again.report) == ["exact"] * 4
    assert again.report.tokens_computed == len(QUESTION)
    elsewhere = blend(served, THIRD, FIRST, QUESTION, policy="none")
    assert contexts(elsewhere.report)[1:] != ["exact"] * 2
    assert elsewhere.report.hit


def test_neighbours_that_are_seen_for_the_first_time_are_stored_and_found_as_pairs(served):
    prefetch(served)
    assert contexts(blend(served, *DOCUMENTS, QUESTION).report) == ["exact", "warm", "warm", "warm"]
    stored(served, 3)
    # After the first document the second one's pair is its whole context.
    assert contexts(blend(served, *DOCUMENTS, QUESTION).report) == ["exact", "exact", "exact", "pair"]
    shifted = blend(served, THIRD, FIRST, SECOND, QUESTION).report
    assert contexts(shifted) == ["exact", "warm", "warm", "pair"]
    stored(served, 5)
    counters = served.status().counters
    assert counters["background_failed"] == counters["background_dropped"] == 0


def test_neighbours_take_no_more_than_their_bytes_and_the_queue_no_more_than_its_length(model, tmp_path):
    with serve(model, tmp_path / "bytes", pair_bytes=1) as address, Client(address) as client:
        prefetch(client)
        blend(client, *DOCUMENTS, QUESTION)
        eventually(lambda: client.status().counters["background_dropped"] == 2)
        assert client.status().counters["background_stored"] == 1, "the one that the bytes ended with"
    with serve(model, tmp_path / "none", pair_bytes=0) as address, Client(address) as client:
        prefetch(client)
        blend(client, *DOCUMENTS, QUESTION)
        blend(client, *DOCUMENTS, ANOTHER)
        assert client.status().counters["background_stored"] == 0
    with serve(model, tmp_path / "queue", background_queue=1) as address, Client(address) as client:
        blend(client, *DOCUMENTS, QUESTION)
        eventually(lambda: client.status().counters["background_stored"] == 1)
        assert client.status().counters["background_dropped"] == 5


@pytest.mark.parametrize("family", ["llama", "gemma3"])
def test_the_second_turn_of_a_conversation_finds_the_first_in_its_exact_context(family, tmp_path):
    model = prepare(tiny(*SUPPORTED[family]), None, "tiny")
    with serve(model, tmp_path) as address, Client(address) as client:
        first = blend(client, FIRST, SECOND, QUESTION)
        stored(client, 4)
        answer = [*QUESTION, *THIRD]
        second = blend(client, FIRST, SECOND, answer, ANOTHER)
        report = second.report
        assert [chunk.miss_reason for chunk in report.chunks] == ["", "", "", "not_stored"]
        assert contexts(report) == ["exact"] * 3 + [""]
        exact = len(PREFIX) + len(FIRST) + len(SECOND)
        assert (report.tokens_exact, report.tokens_reused) == (exact, 0)
        for ours, theirs in zip(second.layers, first.layers, strict=True):
            # Bit for bit what the first turn had; the shared prefix was computed again to be stored.
            cut = slice(len(PREFIX), exact)
            assert np.array_equal(ours.keys[cut], theirs.keys[cut])
            assert np.array_equal(ours.values[cut], theirs.values[cut])
        equal_to_full_prefill(model, second)
        stored(client, 6)
        third = blend(client, FIRST, SECOND, answer, [*ANOTHER, *WARM], QUESTION)
        assert contexts(third.report) == ["exact"] * 4 + [""]
        equal_to_full_prefill(model, third)


def test_a_blend_is_never_stored_or_counted_as_exact(model, served, tmp_path):
    """Every object holds what a full prefill of the context that it names computes, whatever a request was given."""
    prefetch(served, [FIRST, SECOND])
    order = (SECOND, THIRD, FIRST, QUESTION)
    first = blend(served, *order, policy="deviation", recompute_ratio=0.3).report
    assert (contexts(first), first.tokens_exact) == (["exact", "warm", "", "warm"], len(PREFIX))
    stored(served, 3)  # the second in its exact context, the third as a prefetch has it, the first after the third
    report = blend(served, *order, policy="deviation", recompute_ratio=0.3).report
    assert contexts(report) == ["exact", "exact", "warm", "pair"], "the third was computed over a blend"
    assert report.tokens_exact == len(PREFIX) + len(SECOND)
    stored(served, 4)  # the third after the second, computed anew
    orders = [[], *([d] for d in (WARM, FIRST, SECOND, THIRD)), [SECOND, THIRD], [WARM, SECOND], [WARM, THIRD]]
    known = {}
    for order in orders:
        before = [*PREFIX, *(token for part in order for token in part)]
        known[context_digest(np.array(before, np.uint32))] = before
    known[context_digest(np.array([], np.uint32))] = []
    seen = []
    for path in blobs(tmp_path):
        decoded = container.decode(path.read_bytes(), model.fingerprint, None)
        before = known[bytes.fromhex(decoded.head.header.context_digest)]
        seen.append(decoded.head.header.variant.value)
        chunk = decoded.chunk()
        assert chunk.rotated_from == len(before)
        for layer, (keys, values) in enumerate(in_full(model, [*before, *chunk.token_ids.tolist()])):
            np.testing.assert_allclose(chunk.keys[layer], keys[len(before) :], atol=5e-4)
            np.testing.assert_allclose(chunk.values[layer], values[len(before) :], atol=5e-4)
    assert sorted(seen) == ["exact", "exact", "pair", "pair", "warm", "warm", "warm"]


def test_a_node_that_is_away_fails_the_background_and_no_request(model):
    with router_only(model, "127.0.0.1:1", stat_deadline=0.5) as address, Client(address) as client:
        kv = blend(client, FIRST, QUESTION)
        equal_to_full_prefill(model, kv)
        eventually(lambda: client.status().counters["background_failed"] == 2)


def test_an_interrupted_prefetch_keeps_what_is_done(served):
    named = [Document(f"document {number}", content) for number, content in enumerate(DOCUMENTS * 20)]
    for item in served.prefetch(named, **LOSSLESS):
        assert item.done == 1
        break
    plan = served.plan([FIRST, QUESTION], **LOSSLESS)
    assert not any(chunk.miss_reason for chunk in plan.chunks)


def test_a_shared_prefix_is_not_taken_from_a_document_of_the_same_text(served):
    done = list(served.prefetch([Document("a", PREFIX)], level="lossless", shared_prefix=[], warm_up=[WARM]))
    assert done[0].stored == 1
    assert blend(served, QUESTION).report.chunks[0].miss_reason == "not_stored"


def test_with_attention_sums_contextual_takes_the_tokens_that_attended_to_their_context(model, tmp_path):
    with serve(model, tmp_path, attention_sums=True, background=False) as address, Client(address) as client:
        prefetch(client, [FIRST, SECOND])
        plain = blend(client, FIRST, SECOND, QUESTION, policy="none")
        chosen = blend(client, FIRST, SECOND, QUESTION, policy="contextual", recompute_ratio=0.2)
    assert chosen.report.tokens_recomputed == 30
    sides = {}
    for path in blobs(tmp_path):
        decoded = container.decode(path.read_bytes(), model.fingerprint, None)
        if decoded.head.header.variant.value == "warm":
            sides[len(decoded.token_ids)] = decoded.side.inter
    changed = [
        (ours.values != theirs.values).any((1, 2)) for ours, theirs in zip(chosen.layers, plain.layers, strict=True)
    ]
    places = {len(FIRST): len(PREFIX), len(SECOND): len(PREFIX) + len(FIRST)}
    for tokens, begin in places.items():
        taken = np.flatnonzero(changed[1][begin : begin + tokens])
        assert 0 < len(taken) < tokens / 2
        assert taken.tolist() == highest(sides[tokens], np.arange(tokens), len(taken)).tolist()


def test_of_several_contexts_the_one_most_like_the_prompt_is_taken(model, tmp_path):
    new = np.random.default_rng(4).integers(3, 500, 50).tolist()
    with serve(model, tmp_path, attention_sums=True) as address, Client(address) as client:
        prefetch(client)
        blend(client, FIRST, SECOND, THIRD, QUESTION)
        stored(client, 3)
        blend(client, SECOND, FIRST, THIRD, QUESTION)
        stored(client, 6)
    with serve(model, tmp_path, attention_sums=True, background=False) as address, Client(address) as client:
        for before in (SECOND, FIRST, SECOND):  # the other one is always the latest used
            kv = blend(client, before, new, THIRD, QUESTION, policy="none")
            assert kv.report.chunks[-1].context == "warm"
            begin = len(PREFIX) + len(before)
            computed = in_full(model, [*PREFIX, *before, *THIRD])
            for layer, (_, values) in zip(kv.layers, computed, strict=True):
                got = layer.values[begin + len(new) : begin + len(new) + len(THIRD)]
                np.testing.assert_allclose(got, values[begin:], atol=5e-4)
