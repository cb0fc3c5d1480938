"""The main job over real gRPC with the real model: prefetch, blend in a new order, answer."""

import pytest

from kvquilt import Client, Document
from kvquilt.integrations.dual_stage import DecodeStage
from kvquilt_router.policies.deviation import schedule
from tests.stack import serve
from tests.texts import PASSAGES, QUESTION

DOCUMENTS = [Document(f"passage {i}", text) for i, text in enumerate(PASSAGES[:5])]
SEGMENTS = [*(PASSAGES[i] for i in (3, 0, 4, 1, 2)), QUESTION]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def client(smollm2, data_dir):
    with serve(smollm2, data_dir, background=False) as address, Client(address) as client:
        done = list(client.prefetch(DOCUMENTS))
        assert [item.document_id for item in done] == [document.document_id for document in DOCUMENTS]
        assert all(item.failed == 0 for item in done)
        yield client


def test_full_recompute_equals_a_full_prefill(client, reference):
    filled = reference.cache(client).fill(SEGMENTS, policy="full")
    reference.assert_equal(filled)
    assert filled.report.tokens_recomputed == filled.report.chunks[-1].end
    assert filled.report.tokens_exact == filled.report.tokens_reused == 0


@pytest.mark.parametrize(
    "policy", ["none", "random", "first-tokens", "deviation", "contextual", "question", "question-deviation"]
)
def test_every_policy_finds_all_chunks_and_keeps_to_its_ratio(client, reference, policy):
    filled = reference.cache(client).fill(SEGMENTS, policy=policy, recompute_ratio=0.25)
    report = filled.report
    assert report.hit
    # Without a recompute the question is the worker's, as it needs no router.
    end = report.chunks[-1].end if policy == "none" else filled.input_ids.shape[1] - 1
    assert filled.past_key_values.get_seq_length() == end
    reused = report.tokens_reused + report.tokens_recomputed
    budget = 0 if policy == "none" else -(-reused // 4)
    # `deviation` chooses more at first and computes fewer in later layers.
    layers = len(filled.past_key_values.layers) if policy == "deviation" else 0
    assert report.tokens_recomputed == schedule(budget, reused, layers)[0]
    known = report.tokens_exact + report.tokens_reused + report.tokens_recomputed
    assert known + report.tokens_computed == filled.input_ids.shape[1]
    assert report.tokens_exact == report.chunks[0].end  # the shared prefix
    assert [chunk.context for chunk in report.chunks] == ["exact"] + ["warm"] * 5
    assert (report.observed_deviation > 0) == (report.tokens_recomputed > 0)
    assert len(reference.greedy(filled.input_ids, filled.past_key_values)) > 0


def test_the_decode_stage_goes_on_with_the_reused_tokens_of_the_report(client, reference):
    filled = reference.cache(client).fill(SEGMENTS, policy="dual-stage", recompute_ratio=0.1)
    report = filled.report
    reused = -(-(report.tokens_reused + report.tokens_recomputed) // 10)
    assert report.tokens_recomputed == reused
    assert len(report.reused_positions) == len(report.reused_deviations) == report.tokens_reused
    assert all(report.tokens_exact <= position < report.chunks[-1].end for position in report.reused_positions)
    before = [layer.keys.clone() for layer in filled.past_key_values.layers]
    with DecodeStage(reference.model).refreshing(filled) as processors:
        assert len(reference.greedy(filled.input_ids, filled.past_key_values, 4, processors)) == 4
    changed = {
        position
        for layer, keys in zip(filled.past_key_values.layers, before, strict=True)
        for position in (layer.keys[:, :, : keys.shape[2]] != keys).any(3).any(1)[0].nonzero()[:, 0].tolist()
    }
    assert len(changed) == 4 * 3
    assert changed <= set(report.reused_positions)
    assert client.blend(SEGMENTS, policy="none").report.reused_positions == ()


def test_recomputing_more_comes_closer_to_a_full_prefill(client, reference):
    def distance(ratio):
        filled = reference.cache(client).fill(SEGMENTS, policy="deviation", recompute_ratio=ratio)
        p = reference.next_logits(filled.input_ids).log_softmax(-1)
        q = reference.next_logits(filled.input_ids, filled.past_key_values).log_softmax(-1)
        return float((p.exp() * (p - q)).sum())

    everything = distance(1.0)
    assert everything < 0.1 * distance(0.0)
    assert everything < 1e-3


def test_a_blend_is_never_stored_or_counted_as_exact(client):
    first, second = client.blend(SEGMENTS).report, client.blend(SEGMENTS).report
    assert (first.tokens_exact, first.tokens_reused) == (second.tokens_exact, second.tokens_reused)
    assert client.status().nodes[0].objects == len(DOCUMENTS) + 1  # the shared prefix, and one chunk a passage


def test_lossless_documents_are_stored_apart_and_larger(client):
    high = client.blend(SEGMENTS).report.fetched_bytes
    list(client.prefetch(DOCUMENTS, level="lossless"))
    report = client.blend(SEGMENTS, level="lossless").report
    assert report.hit
    assert high < report.bf16_bytes < report.fetched_bytes < 2 * report.bf16_bytes  # float32, so up to twice bf16
    assert client.forget(*(document.document_id for document in DOCUMENTS)).objects_deleted == 2 * len(DOCUMENTS)
    list(client.prefetch(DOCUMENTS))


def test_prefetching_again_computes_nothing(client):
    again = list(client.prefetch(DOCUMENTS))
    assert [(item.stored, item.compute_seconds) for item in again] == [(0, 0.0)] * len(DOCUMENTS)


def test_the_plan_tells_what_the_blend_finds(client):
    plan = client.plan([*SEGMENTS[:-1], "A new text.", QUESTION])
    reasons = [chunk.miss_reason for chunk in plan.chunks]
    assert reasons == [""] * 6 + ["not_stored"]


def test_a_forgotten_document_misses_and_the_answer_stays_right(client, reference):
    assert client.forget("passage 4").objects_deleted == 1
    with_one_missing = client.plan(SEGMENTS)
    assert [chunk.miss_reason for chunk in with_one_missing.chunks].count("not_stored") == 1
    filled = reference.cache(client).fill(SEGMENTS, policy="full")
    reference.assert_equal(filled)
    assert filled.report.tokens_computed > len(reference.tokens(PASSAGES[4]))
    list(client.prefetch(DOCUMENTS))


def test_text_that_two_documents_hold_stays_when_one_is_forgotten(client):
    list(client.prefetch([Document("copy", PASSAGES[0])]))
    receipt = client.forget("copy")
    assert (receipt.objects_deleted, receipt.objects_kept_shared) == (0, 1)
    assert not any(chunk.miss_reason for chunk in client.plan(SEGMENTS).chunks)


def test_text_and_token_ids_are_the_same_request(client, smollm2):
    ids = [smollm2.tokenise(part).tolist() for part in SEGMENTS[:-1]]
    assert not any(chunk.miss_reason for chunk in client.plan([*ids, QUESTION]).chunks)


def test_everything_is_found_after_a_restart(smollm2, reference, tmp_path):
    for restarted in (False, True):
        with serve(smollm2, tmp_path) as address, Client(address) as client:
            if not restarted:
                list(client.prefetch(DOCUMENTS))
            report = client.blend(SEGMENTS).report
            assert report.hit
            assert client.status().counters.get("chunks_hit") == len(report.chunks)
