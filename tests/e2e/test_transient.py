"""A transient request leaves nothing behind; the same request without it does."""

import pytest

from kvquilt import Client, Document
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, serve

PREFIX, FIRST, SECOND, QUESTION = [3, 4, 5], [[number] * 40 for number in (6, 7)], list(range(20, 70)), [9, 10]


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def test_a_transient_request_leaves_nothing_behind(model, tmp_path):
    with serve(model, tmp_path, audit_share=1.0, warm_up_passages=0) as router, Client(router) as client:
        list(client.prefetch([Document("second", SECOND)], shared_prefix=PREFIX))

        def objects():
            return sum(node.objects for node in client.status().nodes)

        # Missed chunks, a prefix that is not stored, and neighbours: all that a request leaves behind.
        prompts = [([*FIRST, QUESTION], PREFIX), ([SECOND, QUESTION], [3, 4]), ([*FIRST, SECOND, QUESTION], PREFIX)]
        before = objects()
        for segments, prefix in prompts:
            report = client.blend(segments, shared_prefix=prefix, policy="none", transient=True).report
            assert (report.tokens_queued, report.request_id) == (0, "")
        state = client.status()
        assert state.counters["blends"] == len(prompts)
        assert (state.counters["background_stored"], state.counters["audits"], objects()) == (0, 0, before)
        for segments, prefix in prompts:
            report = client.blend(segments, shared_prefix=prefix, policy="none").report
            assert report.tokens_queued > 0
            assert report.request_id
        eventually(lambda: objects() > before)
