"""Every cause of a miss, brought about for real: a router, a node, and what a client is told of it."""

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_codec.errors import BadRequestError, NotFoundError
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import blobs, eventually, node_process, router_only, serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 200, 150))
QUESTION = [7, 8, 9, 10]
OPTIONS = {"background": False, "warm_up_passages": 0, "chunk_tokens": 256}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@pytest.fixture
def client(model, tmp_path):
    with serve(model, tmp_path, **OPTIONS) as router, Client(router) as client:
        yield client


def prefetch(client, *documents, prefix=PREFIX, **options):
    named = [Document(f"document {number}", document) for number, document in enumerate(documents)]
    return list(client.prefetch(named, shared_prefix=prefix, **options))


def ask(client, *documents, prefix=PREFIX, **options):
    """A blend's report, and what is said of it."""
    report = client.blend([*documents, QUESTION], shared_prefix=prefix, policy="none", **options).report
    return report, client.why(report.request_id)


def causes(why):
    return [chunk.cause for chunk in why.chunks]


def test_what_was_served_has_no_cause_and_what_nobody_stored_says_so(client):
    prefetch(client, TEXT)
    report, why = ask(client, OTHER, TEXT)
    assert [chunk.outcome for chunk in why.chunks] == ["exact", "computed", "blended"]
    assert causes(why) == ["", "never_stored", ""]
    assert (why.request_id, why.prompt_tokens) == (report.request_id, len(PREFIX + OTHER + TEXT + QUESTION))
    assert [(chunk.begin, chunk.end) for chunk in why.chunks] == [(c.begin, c.end) for c in report.chunks]
    prefetch(client, OTHER)
    again = client.why(report.request_id)
    assert [chunk.stored_since for chunk in again.chunks] == [False, True, False]
    assert causes(again) == causes(why), "that it is there now does not explain why it was not"


def test_a_prompt_can_be_explained_without_a_request(client):
    prefetch(client, TEXT)
    why = client.why(segments=[OTHER, TEXT, QUESTION], shared_prefix=PREFIX)
    assert causes(why) == ["", "never_stored", ""]
    assert (why.request_id, why.request_unix_seconds) == ("", None)
    plain = client.why(plain=[*PREFIX, *TEXT, *QUESTION])
    assert [chunk.outcome for chunk in plain.chunks if chunk.segment] == ["exact", "computed"][: len(plain.chunks) - 1]


@pytest.mark.parametrize(
    ("edited", "at", "expected", "got"),
    [
        ([*TEXT[:100], 499, 498, *TEXT[102:]], 100, TEXT[100], 499),
        ([*TEXT[:100], 499, *TEXT[100:]], 100, TEXT[100], 499),
        ([499, 498, *TEXT[2:]], 0, TEXT[0], 499),
        ([*TEXT[:160], *([499] * 30)], 160, TEXT[160], 499),
    ],
    ids=["replaced", "inserted", "another beginning", "another end"],
)
def test_an_edit_is_shown_where_it_begins(client, edited, at, expected, got):
    prefetch(client, TEXT)
    _, why = ask(client, edited)
    (missed,) = [chunk for chunk in why.chunks if chunk.cause]
    assert missed.cause == "edited"
    found = missed.divergence
    assert (found.position, found.stored_offset) == (len(PREFIX) + at, at)
    assert (found.expected_token, found.got_token) == (expected, got)
    assert found.stored_tokens == len(TEXT)


def test_the_nearest_stored_chunk_is_found_also_after_another_prefix(client):
    prefetch(client, OTHER, TEXT)
    _, why = ask(client, [*TEXT[:120], 499, *TEXT[121:]], prefix=[5, 6, 7])
    found = why.chunks[1].divergence
    assert why.chunks[1].cause == "edited"
    assert (found.position, found.stored_offset) == (3 + 120, 120)
    assert (found.expected_token, found.got_token) == (TEXT[120], 499)
    assert (found.same_begin, found.same_stored_offset, found.same_tokens) == (3, 0, 120)


def test_a_text_that_is_cut_elsewhere_is_told_from_an_edited_one(client):
    prefetch(client, TEXT)
    _, why = ask(client, TEXT[50:170], prefix=[5, 6, 7])
    assert why.chunks[1].cause == "cut_elsewhere"
    assert why.chunks[1].divergence.same_stored_offset == 50


def test_another_shared_prefix_and_another_form(client):
    prefetch(client, TEXT)
    _, why = ask(client, TEXT, prefix=[5, 6, 7])
    assert causes(why) == ["never_stored", "other_prefix"]
    _, why = ask(client, TEXT, level="lossless")
    assert causes(why) == ["", "other_form"]
    assert (why.chunks[1].stored_form, why.chunks[1].wanted_form) == ("high", "lossless")


def test_a_shared_prefix_that_is_stored_as_a_document_after_others_is_of_another_context(model, tmp_path):
    settings = {**OPTIONS, "warm_up_passages": 8}
    with serve(model, tmp_path, **settings) as router, Client(router) as client:
        prefetch(client, TEXT, prefix=[], level="lossless", warm_up=[OTHER])
        _, why = ask(client, OTHER, prefix=TEXT)
        assert causes(why)[0] == "other_context"


def test_what_was_forgotten(client):
    prefetch(client, TEXT, OTHER)
    client.forget("document 0")
    report, why = ask(client, TEXT, OTHER)
    assert causes(why) == ["", "forgotten", ""]
    assert why.chunks[1].departed_unix_seconds < why.request_unix_seconds
    prefetch(client, TEXT)
    assert client.why(report.request_id).chunks[1].stored_since


def test_what_had_to_make_room(model, tmp_path):
    with serve(model, tmp_path, capacity=90_000, **OPTIONS) as router, Client(router) as client:
        prefetch(client, TEXT)
        for seed in range(8):
            prefetch(client, np.random.default_rng(seed).integers(3, 500, 150).tolist())
        _, why = ask(client, TEXT)
        assert why.chunks[1].cause == "evicted"


@pytest.mark.parametrize("sweep_seconds", [0.05, 600.0], ids=["dropped soon", "not dropped yet"])
def test_what_was_stored_for_a_time(model, tmp_path, sweep_seconds):
    with serve(model, tmp_path, sweep_seconds=sweep_seconds, **OPTIONS) as router, Client(router) as client:
        prefetch(client, TEXT, ttl=0.5)
        report, why = ask(client, TEXT)
        while report.chunks[1].miss_reason == "":
            report, why = ask(client, TEXT)
        assert causes(why) == ["", "expired"], "at once, and not only when its row is dropped"
        assert why.chunks[1].departed_unix_seconds < why.request_unix_seconds
        if sweep_seconds < 1:
            eventually(lambda: client.status().nodes[0].objects == 1)
        assert causes(client.why(report.request_id)) == ["", "expired"]
        assert causes(client.why(segments=[TEXT, QUESTION], shared_prefix=PREFIX)) == ["", "expired"]


def test_what_could_not_be_stored(model, tmp_path):
    with serve(model, tmp_path, capacity=20_000, **OPTIONS) as router, Client(router) as client:
        (done,) = prefetch(client, [*TEXT, *OTHER][:250])
        assert done.failed
        _, why = ask(client, [*TEXT, *OTHER][:250])
        assert (why.chunks[1].cause, why.chunks[1].detail) == ("not_kept", "over_cap")


def test_what_was_damaged_and_what_was_lost(client, tmp_path):
    prefetch(client, TEXT, OTHER)
    (largest, middle, _) = sorted(blobs(tmp_path), key=lambda path: -path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1] + b"\x00")
    middle.unlink()
    report, why = ask(client, TEXT, OTHER)
    assert [chunk.miss_reason for chunk in report.chunks] == ["", "damaged", "not_stored"]
    assert causes(why) == ["", "damaged", "lost"]

    def again():
        _, why = ask(client, TEXT, OTHER)
        return [chunk.miss_reason for chunk in why.chunks] == ["", "not_stored", "not_stored"] and causes(why)

    eventually(lambda: again() == ["", "damaged", "lost"])


def test_what_waits_to_be_stored(model, tmp_path):
    document = np.random.default_rng(3).integers(3, 500, 800).tolist()
    settings = {**OPTIONS, "background": True, "chunk_tokens": 16}
    with serve(model, tmp_path, **settings) as router, Client(router) as client:
        client.blend([document, QUESTION], shared_prefix=PREFIX)
        report, why = ask(client, document)  # while dozens of chunks of the first one wait
        assert "queued" in causes(why)
        missed = [number for number, cause in enumerate(causes(why)) if cause == "queued"]
        eventually(lambda: all(client.why(report.request_id).chunks[number].stored_since for number in missed))


def test_what_is_stored_for_another_model_and_how_that_one_differs(model, tmp_path):
    other = prepare(tiny("LlamaConfig", {"rms_norm_eps": 1e-3}), None, "other")
    with node_process(tmp_path) as (_, node):
        with router_only(other, node, **OPTIONS) as router, Client(router) as client:
            prefetch(client, TEXT)
        with router_only(model, node, **OPTIONS) as router, Client(router) as client:
            _, why = ask(client, TEXT)
            assert causes(why) == ["other_model", "other_model"]
            assert why.chunks[1].other_model_fingerprint == other.fingerprint
            assert why.chunks[1].model_differences == ("architecture",)


def test_a_node_that_does_not_answer_is_named(model, tmp_path):
    with (
        node_process(tmp_path) as (process, node),
        router_only(model, node, **OPTIONS) as router,
        Client(router) as client,
    ):
        prefetch(client, TEXT)
        process.kill()
        process.wait(30)
        _, why = ask(client, TEXT)
        assert set(causes(why)) == {"node_unavailable"}
        assert [(state.target, state.reachable) for state in why.nodes] == [(node, False)]


def test_bad_questions_are_refused(client):
    for wrong in ({}, {"request_id": "a", "segments": [TEXT, QUESTION]}):
        with pytest.raises(BadRequestError, match="one of the three"):
            client.why(**wrong)
    with pytest.raises(NotFoundError, match="expected the id") as caught:
        client.why("0" * 32)
    assert caught.value.reason == "unknown_request"


def test_no_record_is_kept_where_none_is_wanted(model, tmp_path):
    with serve(model, tmp_path, requests_kept=0, **OPTIONS) as router, Client(router) as client:
        report = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report
        assert report.request_id == ""
