"""The gate in the path of requests: what is proven is blended, the rest is computed, and audits go on proving."""

import asyncio

import msgspec
import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt.worker import Extent, ServedModel, WorkerCache, WorkerRequest
from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.gate import file as gate_file
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import write_whole
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from tests.e2e.gated import FIRST, PREFIX, QUESTION, SECOND, SEGMENTS, WARM, blend, counters, gate_of, point, prefetch
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, serve

LEVELS = ("high", "medium", "low")


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")


def measured(model, profile):
    return gate_of(
        model,
        profile,
        point("none", 0.0, "warm", 0.5, 0.05),
        point("none", 0.0, "base", 0.9, 0.05),
        point("question-deviation", 0.2, "warm", 0.1, 0.3),
        point("question-deviation", 0.4, "warm", 0.05, 0.5),
    )


def served(model, profile, folder, gate, **settings):
    path = folder / "gate.json"
    write_whole(path, gate_file.dump(gate))
    options = {"profile": str(profile), "gate": str(path), "ungated": False, "background": False, "audit_share": 0.0}
    return serve(model, folder / "store", **{**options, **settings})


def contexts(report):
    return [chunk.context for chunk in report.chunks]


def equal_to_full_prefill(model, kv):
    tokens = np.asarray(kv.token_ids[:-1], np.uint32)
    full = model.engine.to_chunk(tokens, model.engine.prefill(tokens), 0, unrotate=False)
    for layer, keys, values in zip(kv.layers, full.keys, full.values, strict=True):
        np.testing.assert_allclose(layer.keys, keys, atol=5e-4)
        np.testing.assert_allclose(layer.values, values, atol=5e-4)


def refused(model, kv, reason):
    """Chunks whose context changed were not used, and the answer is right."""
    assert kv.report.gate_refusal == reason
    assert kv.report.tokens_reused == kv.report.tokens_recomputed == 0
    assert [chunk.miss_reason for chunk in kv.report.chunks[1:]] == ["gate_closed"] * 2
    assert kv.report.chunks[0].context == "exact"
    equal_to_full_prefill(model, kv)


def test_without_a_gate_there_is_exact_reuse_only(model, tmp_path):
    settings = {"ungated": False, "level": "lossless"}
    with serve(model, tmp_path, **settings) as router, Client(router) as client:
        assert "no gate was measured" in client.status().models[0].gate.missing_reason
        prefetch(client)
        first = blend(client)
        # Nothing could be blended, so documents are stored as they are right after the shared prefix.
        assert contexts(first.report) == ["exact", "exact", ""]
        assert (first.report.gate_refusal, first.report.predicted_kl) == ("no_gate", None)
        assert first.report.chunks[2].miss_reason == "gate_closed"
        equal_to_full_prefill(model, first)
        counted = counters(client)
        assert (counted["blends_refused_no_gate"], counted["chunks_missed_gate_closed"]) == (1, 1)
        # What it computed in full is exact for whoever asks the same again.
        eventually(lambda: counters(client)["background_stored"] == 1)
        again = blend(client)
        assert contexts(again.report) == ["exact"] * 3
        assert again.report.gate_refusal == ""
        equal_to_full_prefill(model, again)


def test_the_cheapest_measured_way_within_the_limit_is_taken(model, profile, tmp_path):
    with served(model, profile, tmp_path, measured(model, profile)) as router, Client(router) as client:
        prefetch(client)
        for limit, expected in (
            (None, ("question-deviation", 0.2, 0.1)),
            (1.0, ("none", 0.0, 0.5)),
            (0.06, ("question-deviation", 0.4, 0.05)),
        ):
            report = blend(client, max_kl=limit).report
            assert (report.policy, report.recompute_ratio, report.predicted_kl) == expected
            assert contexts(report) == ["exact", "warm", "warm"]
            assert report.tokens_recomputed == -(-expected[1] * (len(FIRST) + len(SECOND)) // 1)
            plan = client.plan(SEGMENTS, shared_prefix=PREFIX, max_kl=limit)
            assert (plan.policy, plan.recompute_ratio, plan.predicted_kl, plan.gate_refusal) == (*expected, "")
        named = blend(client, policy="none", max_kl=1.0).report
        assert (named.policy, named.predicted_kl) == ("none", 0.5)
        between = blend(client, recompute_ratio=0.3).report
        assert (between.recompute_ratio, between.predicted_kl) == (0.3, 0.1)


def test_what_was_not_proven_is_computed_and_says_why(model, profile, tmp_path):
    with served(model, profile, tmp_path, measured(model, profile)) as router, Client(router) as client:
        prefetch(client)
        prefetch(client, level="lossless")
        refused(model, blend(client, level="lossless", max_kl=0.01), "above_limit")
        refused(model, blend(client, level="lossless", policy="random"), "not_measured")
        refused(model, blend(client, level="lossless", policy="none"), "above_limit")
        assert blend(client, level="medium").report.gate_refusal == "not_measured"
        everything = blend(client, level="lossless", policy="full")
        assert (everything.report.gate_refusal, everything.report.predicted_kl) == ("", 0.0)
        equal_to_full_prefill(model, everything)
        plan = client.plan(SEGMENTS, shared_prefix=PREFIX, max_kl=0.01)
        assert (plan.gate_refusal, plan.predicted_kl) == ("above_limit", 0.04)
        counted = counters(client)
        assert counted["blends_refused_above_limit"] == counted["blends_refused_not_measured"] == 2
        assert counted["chunks_missed_gate_closed"] == 8


def test_a_context_that_is_not_within_the_limit_is_left_out_and_the_others_are_used(model, profile, tmp_path):
    with served(model, profile, tmp_path, measured(model, profile)) as router, Client(router) as client:
        list(client.prefetch([Document("warm", FIRST)], shared_prefix=PREFIX, warm_up=[WARM]))
        begins_as_it = [*SECOND[:50], *WARM]  # so the chunk is not computed after it
        list(client.prefetch([Document("base", SECOND)], shared_prefix=PREFIX, warm_up=[begins_as_it]))
        segments = [WARM, SECOND, FIRST, QUESTION]
        assert contexts(blend(client, segments, max_kl=1.0).report) == ["exact", "", "base", "warm"]
        report = blend(client, segments).report
        assert contexts(report) == ["exact", "", "", "warm"]
        assert [chunk.miss_reason for chunk in report.chunks] == ["", "not_stored", "gate_closed", ""]
        assert (report.gate_refusal, report.policy, report.predicted_kl) == ("", "question-deviation", 0.1)


# Which gate


@pytest.mark.parametrize(
    ("change", "words", "error"),
    [
        ({"profile_digest": "0" * 64}, "stale", FingerprintMismatchError),
        ({"model_fingerprint": "0" * 64}, "of model", FingerprintMismatchError),
        (None, "expected a gate file", IntegrityError),
    ],
)
def test_a_gate_that_does_not_hold_is_not_used_and_named_it_ends_the_start(
    model, profile, tmp_path, change, words, error
):
    beside = tmp_path / "own.safetensors"
    write_whole(beside, profile.read_bytes())
    right = measured(model, profile)
    wrong = b"{" if change is None else gate_file.dump(msgspec.structs.replace(right, **change))
    write_whole(gate_file.beside(beside), wrong)
    settings = {"profile": str(beside), "ungated": False, "background": False}
    with serve(model, tmp_path / "store", **settings) as router, Client(router) as client:
        gate = client.status().models[0].gate
        assert words in gate.missing_reason
        assert gate.points == ()
        prefetch(client)
        assert blend(client).report.gate_refusal == "no_gate"
    with pytest.raises(error, match=words):
        asyncio.run(started(model, profile=str(beside), gate=str(gate_file.beside(beside))))
    write_whole(gate_file.beside(beside), gate_file.dump(right))
    with serve(model, tmp_path / "store", **settings) as router, Client(router) as client:
        assert client.status().models[0].gate.missing_reason == ""
        prefetch(client)  # with a gate chunks are worth more after other text
        assert blend(client).report.policy == "question-deviation"


async def started(model, **settings):
    async with running_router(RouterSettings(port=0, nodes="127.0.0.1:1", **settings), model):
        pass


def test_a_named_gate_that_is_not_there_ends_the_start_and_none_is_said_so(model, profile, tmp_path):
    with pytest.raises(NotFoundError):
        asyncio.run(started(model, profile=str(profile), gate=str(tmp_path / "nowhere")))
    for settings, words in (({"gate": ""}, "empty"), ({"ungated": True}, "ungated")):
        options = {"profile": str(profile), "ungated": False, **settings}
        with serve(model, tmp_path, **options) as router, Client(router) as client:
            assert words in client.status().models[0].gate.missing_reason


# Audits


def test_bounds_that_audits_disprove_are_withdrawn(model, profile, tmp_path):
    lies = gate_of(model, profile, point("none", 0.0, "warm", 1e-9, 0.05), point("random", 0.5, "warm", 1e-3, 0.5))
    with served(model, profile, tmp_path, lies, audit_share=1.0) as router, Client(router) as client:
        prefetch(client)
        for audits in (1, 2):
            assert blend(client).report.policy == "none"
            eventually(lambda audits=audits: counters(client)["audits"] == audits)
            assert counters(client)["audits_exceeded"] == audits
        eventually(lambda: counters(client)["points_withdrawn"] == 1)
        points = {entry.policy: entry for entry in client.status().models[0].gate.points if entry.context == "warm"}
        assert (points["none"].audits, points["none"].audits_exceeded, points["none"].withdrawn) == (2, 2, True)
        assert (points["random"].audits, points["random"].withdrawn) == (0, False)
        assert blend(client).report.policy == "random", "the next one that was measured"
        kv = blend(client, policy="none")
        assert kv.report.gate_refusal == "withdrawn"
        assert counters(client)["blends_refused_withdrawn"] == 1


def test_bounds_that_hold_stay(model, profile, tmp_path):
    honest = gate_of(model, profile, point("none", 0.0, "warm", 50.0, 0.05))
    with served(model, profile, tmp_path, honest, audit_share=1.0, max_kl=60.0) as router, Client(router) as client:
        prefetch(client)
        for audits in range(1, 5):
            assert blend(client).report.predicted_kl == 50.0
            eventually(lambda audits=audits: counters(client)["audits"] == audits)
        counted = counters(client)
        assert (counted["audits_exceeded"], counted["points_withdrawn"], counted["audits_dropped"]) == (0, 0, 0)
        assert [entry.audits for entry in client.status().models[0].gate.points] == [0, 4]
        eventually(lambda: all(request.audited_kl is not None for request in client.requests()))
        assert all(0 <= request.audited_kl < request.predicted_kl == 50.0 for request in client.requests())


def test_nothing_is_audited_where_nothing_is_predicted_or_the_share_is_0(model, profile, tmp_path):
    gate = gate_of(model, profile, point("none", 0.0, "warm", 0.1, 0.05))
    with served(model, profile, tmp_path, gate) as router, Client(router) as client:
        prefetch(client)
        blend(client)
        assert counters(client)["audits"] == 0
    with serve(model, tmp_path / "ungated", audit_share=1.0, background=False) as router, Client(router) as client:
        prefetch(client)
        blend(client)
        assert counters(client)["audits"] == 0


def test_exact_reuse_is_audited_against_the_codecs_own_bound_and_what_was_computed_is_not(model, profile, tmp_path):
    options = {"audit_share": 1.0, "warm_up_passages": 0}
    with served(model, profile, tmp_path, gate_of(model, profile), **options) as router, Client(router) as client:
        prefetch(client)
        for segments, prefix in (([[5]], []), ([WARM, QUESTION], PREFIX), ([FIRST, QUESTION], PREFIX)):
            report = client.blend(segments, shared_prefix=prefix).report
            assert (report.gate_refusal, report.predicted_kl) == ("", 0.04)
        eventually(lambda: counters(client)["audits"])
        (entry,) = client.status().models[0].gate.points
        assert (entry.context, entry.audits, entry.audits_exceeded) == ("exact", 1, 0)
        assert counters(client)["audits"] == 1


def test_a_blend_whose_question_the_worker_computes_is_audited_as_the_worker_has_it(model, profile, tmp_path):
    gate = gate_of(model, profile, point("none", 0.0, "warm", 50.0, 0.05))
    with served(model, profile, tmp_path, gate, audit_share=1.0, max_kl=60.0) as router, Client(router) as client:
        prefetch(client)
        asked = np.array([*PREFIX, *SECOND, *FIRST, *QUESTION], np.uint32)
        served_model = ServedModel(model.fingerprint, model.engine.traits.layout)
        lengths = {"prefix_tokens": len(PREFIX), "document_tokens": (len(SECOND), len(FIRST))}
        with WorkerCache(served_model, router) as cache:
            request = WorkerRequest(asked, extent=Extent.PROMPT, **lengths)
            report = cache.fetch(request, cache.plan(request, 30), lambda *_: None, 30)
        assert report.kv_tokens == len(PREFIX) + len(SECOND) + len(FIRST)
        eventually(lambda: counters(client)["audits"] == 1)
        assert counters(client)["audits_exceeded"] == 0
