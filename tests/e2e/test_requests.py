"""What a router tells of the requests that it served: equal to their reports, and to their owner only."""

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document
from kvquilt.errors import BadRequestError, NotFoundError
from kvquilt.worker import Extent, ServedModel, WorkerCache, WorkerRequest
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import eventually, serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 200, 150))
QUESTION = [7, 8, 9, 10]
OPTIONS = {"background": False, "warm_up_passages": 0, "chunk_tokens": 256}
STORED = ("exact", "pair", "warm", "base")


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def counts(request):
    """A request's quilt, in the counts of a report."""
    tokens = request.tokens()
    reused = sum(tokens.get(kind, 0) for kind in STORED[1:])
    return tokens.get("exact", 0), reused, tokens.get("recomputed", 0), tokens.get("computed", 0)


def told(report):
    return report.tokens_exact, report.tokens_reused, report.tokens_recomputed, report.tokens_computed


def test_a_quilt_has_the_tokens_of_its_requests_report(model, tmp_path):
    with serve(model, tmp_path, **OPTIONS) as router, Client(router) as client:
        list(client.prefetch([Document("a", TEXT), Document("b", OTHER)], shared_prefix=PREFIX))
        reports = [
            client.blend([OTHER, TEXT, [5] * 40, QUESTION], shared_prefix=PREFIX, policy=policy, **ratio).report
            for policy, ratio in (("none", {}), ("question-deviation", {"recompute_ratio": 0.3}), ("full", {}))
        ]
        reports.append(client.blend_plain([*PREFIX, *TEXT[:120], 499, *TEXT[120:], *QUESTION]).report)
        listed = {request.request_id: request for request in client.requests()}
        assert list(listed) == [report.request_id for report in reversed(reports)], "the latest first"
        for report in reports:
            (whole,) = client.requests(report.request_id)
            for request in (whole, listed[report.request_id]):
                assert counts(request) == told(report) == told(request)
                assert sum(patch.tokens for patch in request.patches) == request.prompt_tokens
                assert request.seconds == report.seconds
                assert (request.level, request.policy) == (report.level, report.policy)
                assert (request.saved_seconds, request.predicted_kl) == (report.saved_seconds, report.predicted_kl)
                assert request.fetched_bytes == report.fetched_bytes
            assert [(c.segment, c.begin, c.end, c.context) for c in whole.chunks] == [
                (c.segment, c.begin, c.end, c.context) for c in report.chunks
            ]
            (node,) = client.status().nodes
            assert {c.node for c in whole.chunks if c.context} == {node.target}
            ends = [patch.begin + patch.tokens for patch in whole.patches]
            assert [patch.begin for patch in whole.patches] == [0, *ends[:-1]]
            for patch in whole.patches:
                if patch.kind in STORED:
                    assert whole.chunks[patch.chunk].context == patch.kind
        with pytest.raises(NotFoundError) as caught:
            client.requests("0" * 32)
        assert caught.value.reason == "unknown_request"
        with pytest.raises(BadRequestError, match="at most 256"):
            client.requests(limit=257)
        assert len(client.requests(limit=2)) == 2


def test_the_part_of_an_exact_head_that_was_sent_is_exact_and_the_rest_was_computed(model, tmp_path):
    with serve(model, tmp_path, **OPTIONS) as router, Client(router) as client:
        list(client.prefetch([Document("a", TEXT)], shared_prefix=PREFIX))
        prompt = [*PREFIX, *TEXT, *QUESTION]
        with WorkerCache(ServedModel(model.fingerprint, model.engine.traits.layout), router) as worker:
            request = WorkerRequest(
                np.asarray(prompt, np.uint32), prefix_tokens=len(PREFIX), extent=Extent.EXACT, computed_tokens=5
            )
            plan = worker.plan(request, 30)
            done = worker.fetch(request, plan, lambda *_: None, 30)
        (listed,) = client.requests()
        assert listed.extent == "exact"
        assert counts(listed) == told(done.report) == told(listed)
        assert next(patch.begin for patch in listed.patches if patch.kind == "exact") == 5


def test_nobody_is_told_of_anothers_requests(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    security = ServerSecurity(token_key=signer.public)
    master = {"master_secret": "a master secret for tests, long enough"}
    with serve(model, tmp_path / "store", security=security, **master, **OPTIONS) as address:

        def calling(name, *namespaces, namespace=""):
            return Client(address, Credentials(token=signer.token(name, *namespaces), namespace=namespace))

        with (
            calling("a", "a") as a,
            calling("b", "b") as b,
            calling("a", "a", namespace="public") as a_in_public,
            calling("operator", "*") as operator,
        ):
            ids = {
                name: client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report.request_id
                for name, client in (("a", a), ("b", b), ("public", a_in_public))
            }
            assert [(r.namespace, r.request_id) for r in a.requests()] == [("a", ids["a"])]
            assert [(r.namespace, r.request_id) for r in b.requests()] == [("b", ids["b"])]
            assert [r.request_id for r in a_in_public.requests()] == [ids["a"]], "others read public text, not requests"
            assert {r.namespace: r.request_id for r in operator.requests()} == ids
            for unseen in (ids["b"], ids["public"]):
                with pytest.raises(NotFoundError) as caught:
                    a.requests(unseen)
                assert caught.value.reason == "unknown_request"
            assert a.status().queues == ()
            assert {queue.name for queue in operator.status().queues} == {
                "background",
                "audits",
                "blends",
                "loads",
                "saves",
            }
            assert a.status().nodes[0].tiers == ()
            a.forget(everything=True)
            assert a.requests() == ()


def test_tiers_and_round_trips_of_nodes_are_told(model, tmp_path):
    with serve(model, tmp_path, capacity=1 << 24, health_seconds=0.1, **OPTIONS) as router, Client(router) as client:
        list(client.prefetch([Document("a", TEXT)], shared_prefix=PREFIX))
        eventually(lambda: client.status().nodes[0].round_trip_seconds)
        (node,) = client.status().nodes
        assert [(tier.name, tier.used_bytes, tier.capacity_bytes) for tier in node.tiers] == [
            ("store", node.used_bytes, 1 << 24)
        ]
