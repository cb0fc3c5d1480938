"""Traces of real requests: one tree from the caller to the store, whatever fails, and nothing secret in it."""

import json
import re

import numpy as np
import pytest
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import StatusCode

from kvquilt import Client, Credentials, Document
from kvquilt.errors import NotFoundError, PermissionDeniedError
from kvquilt.worker import Extent, KvToSave
from kvquilt_router.engine.model import prepare
from kvquilt_rpc import spans
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import blobs, eventually, node_process, router_only, serve
from tests.tracing import attributes, tracing
from tests.worker.conftest import Worker, asked, tokens

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 120, 90))
QUESTION = [7, 8, 9, 10]
ROUTER, NODE = "kvquilt.v1.RouterService/", "kvquilt.v1.CacheNodeService/"
QUIET = {"background": False, "warm_up_passages": 0}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def prefetch(client, *texts):
    done = client.prefetch([Document(f"paper-{n}", text) for n, text in enumerate(texts)], shared_prefix=PREFIX)
    assert not any(item.failed for item in done)


def blend(client, *texts):
    return client.blend([*texts, QUESTION], shared_prefix=PREFIX).report


def only_trace(traces, name):
    """The trace of the one request of this name, once its server has ended it."""
    eventually(lambda: len(traces.spans(name)) == 2)
    ids = {span.context.trace_id for span in traces.spans(name)}
    assert len(ids) == 1
    return ids.pop()


def test_a_request_is_one_tree_from_the_callers_own_span_to_the_store(model, tmp_path):
    with tracing() as traces, serve(model, tmp_path, **QUIET) as address, Client(address) as client:
        prefetch(client, TEXT, OTHER)
        stored = only_trace(traces, ROUTER + "Prefetch")
        assert {
            ("", ROUTER + "Prefetch"),
            (ROUTER + "Prefetch", ROUTER + "Prefetch"),
            (ROUTER + "Prefetch", "kvquilt.find"),
            (ROUTER + "Prefetch", "kvquilt.document"),
            ("kvquilt.document", "kvquilt.compute"),
            ("kvquilt.document", "kvquilt.store_chunk"),
            ("kvquilt.store_chunk", "kvquilt.encode"),
            ("kvquilt.store_chunk", "kvquilt.node"),
            ("kvquilt.node", NODE + "PutChunk"),
            (NODE + "PutChunk", "kvquilt.check"),
            (NODE + "PutChunk", "kvquilt.put"),
            ("kvquilt.put", "kvquilt.store.write"),
        } <= traces.parents(stored)
        traces.clear()
        with spans.span("application"):
            report = blend(client, OTHER, TEXT)
        blended = only_trace(traces, ROUTER + "Blend")
        found = traces.parents(blended)
    assert "?" not in {parent for parent, _ in found}, "every parent is in the tree"
    assert {child for parent, child in found if not parent} == {"application"}
    assert {
        ("application", ROUTER + "Blend"),
        *((ROUTER + "Blend", f"kvquilt.{stage}") for stage in ("wait", "find", "fetch", "merge", "select")),
        *((ROUTER + "Blend", f"kvquilt.{stage}") for stage in ("recompute", "send")),
        ("kvquilt.find", "kvquilt.node"),
        ("kvquilt.node", NODE + "FindVariants"),
        (NODE + "FindVariants", "kvquilt.index.find_variants"),
        ("kvquilt.fetch", "kvquilt.node"),
        ("kvquilt.fetch", "kvquilt.decode"),
        ("kvquilt.node", NODE + "GetChunks"),
        (NODE + "GetChunks", NODE + "GetChunks"),
        (NODE + "GetChunks", "kvquilt.store.read"),
        ("kvquilt.recompute", "kvquilt.recompute.layers"),
    } <= found
    served = next(s for s in traces.spans(ROUTER + "Blend") if "kvquilt.request_id" in s.attributes)
    told = attributes(served)
    assert told["request_id"] == report.request_id
    assert told["model"] == model.fingerprint[:16]
    for kind in ("exact", "reused", "recomputed", "computed"):
        assert told[f"tokens_{kind}"] == getattr(report, f"tokens_{kind}")
    assert (
        told["bytes"]
        == report.fetched_bytes
        == sum(attributes(s)["bytes"] for s in traces.spans("kvquilt.decode", blended))
    )
    assert {attributes(s)["tier"] for s in traces.spans("kvquilt.decode", blended)} == {"store"}
    on_nodes = [s for s in traces.spans(trace=blended) if s.name.startswith(NODE) and s.kind.name == "SERVER"]
    assert {attributes(s)["request_id"] for s in on_nodes} == {report.request_id}
    assert {attributes(s)["tier"] for s in traces.spans("kvquilt.store.read", blended)} == {"store"}
    assert all(s.status.status_code is not StatusCode.ERROR for s in traces.spans(trace=blended))


def test_a_worker_continues_its_own_trace_and_so_does_what_it_saves(model, tmp_path):
    with tracing() as traces, serve(model, tmp_path, chunk_tokens=64, **QUIET) as address:
        worker = Worker(model, address)
        text = tokens(200)
        assert worker.cache.save(KvToSave(asked(text), worker.computed(text), exact_tokens=len(text)))
        worker.cache.settle()
        saved = only_trace(traces, ROUTER + "StoreKv")
        assert {(ROUTER + "StoreKv", "kvquilt.store_chunk"), ("kvquilt.put", "kvquilt.store.write")} <= traces.parents(
            saved
        )
        with spans.span("engine step") as step:
            request = asked(text, extent=Extent.EXACT)
            plan = worker.cache.plan_soon(request, 30).result()
            report = worker.cache.fetch_soon(request, plan, lambda *_: None, 30).result()
        assert report.complete
        worker.cache.close()
        loaded = only_trace(traces, ROUTER + "Blend")
        assert loaded == step._span.get_span_context().trace_id == only_trace(traces, ROUTER + "PlanBlend")
        assert {("engine step", ROUTER + "PlanBlend"), ("engine step", ROUTER + "Blend")} <= traces.parents(loaded)
        assert {(ROUTER + "Blend", "kvquilt.fetch"), (ROUTER + "Blend", "kvquilt.send")} <= traces.parents(loaded)


def test_a_node_that_is_gone_shows_in_the_trace_with_the_reason_and_the_request_goes_on(model, tmp_path):
    settings = {"chunk_tokens": 16, "health_seconds": 60, "stat_deadline": 20, "fetch_deadline": 20, **QUIET}
    with (
        node_process(tmp_path / "a") as (_, first),
        node_process(tmp_path / "b") as (victim, second),
        tracing() as traces,
        router_only(model, [first, second], **settings) as router,
        Client(router) as client,
    ):
        prefetch(client, TEXT)
        victim.kill()
        victim.wait(60)
        eventually(lambda: len(traces.spans(ROUTER + "Prefetch")) == 2)
        traces.clear()
        report = blend(client, TEXT)
        trace = only_trace(traces, ROUTER + "Blend")
    assert "node_unavailable" in {chunk.miss_reason for chunk in report.chunks}
    asked_of = traces.spans("kvquilt.node", trace)
    failed = [s for s in asked_of if s.status.status_code is StatusCode.ERROR]
    assert {attributes(s)["node"] for s in failed} == {second}
    assert {attributes(s)["reason"] for s in failed} == {"unavailable"}
    assert {attributes(s)["node"] for s in asked_of} == {first, second}
    calls = [s for s in traces.spans(trace=trace) if attributes(s).get("rpc.grpc.status_code") == 14]
    assert {s.attributes["kvquilt.reason"] for s in calls} == {"UNAVAILABLE"}
    served = next(s for s in traces.spans(ROUTER + "Blend") if "kvquilt.request_id" in s.attributes)
    assert served.status.status_code is not StatusCode.ERROR
    assert attributes(served)["misses"] == sum(bool(chunk.miss_reason) for chunk in report.chunks)


def test_what_a_request_leaves_behind_is_traced_apart_and_names_it(model, tmp_path):
    with tracing() as traces, serve(model, tmp_path, warm_up_passages=0) as address, Client(address) as client:
        report = blend(client, TEXT)
        eventually(lambda: traces.spans("kvquilt.background"))
    found = traces.spans("kvquilt.background")
    assert {attributes(s)["request_id"] for s in found} == {report.request_id}
    assert {s.parent for s in found} == {None}


def test_a_caller_that_does_not_sample_its_trace_has_nothing_traced_behind_it(model, tmp_path):
    with serve(model, tmp_path, **QUIET) as address, Client(address) as client:
        with tracing(ParentBased(TraceIdRatioBased(0))) as traces:
            blend(client, TEXT)
        assert not traces.spans()
        with tracing() as traces:
            blend(client, TEXT)
            only_trace(traces, ROUTER + "Blend")


def test_nothing_that_a_caller_sent_or_the_cache_keeps_is_in_a_trace(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    master = "a master secret that nobody knows"
    settings = {"security": ServerSecurity(token_key=signer.public), "master_secret": master, **QUIET}
    token = signer.token("tenant", "a")
    with tracing() as traces, serve(model, tmp_path / "store", **settings) as address:
        with Client(address, Credentials(token=token)) as client:
            prefetch(client, TEXT, OTHER)
            blend(client, OTHER, TEXT)
            client.blend_plain([*PREFIX, *OTHER, *TEXT, *QUESTION], policy="none")
            with pytest.raises(NotFoundError):
                client.why("no such request, but a text of mine")
            client.forget("paper-0")
        with (
            Client(address, Credentials(token=token, namespace="another-tenant")) as stranger,
            pytest.raises(PermissionDeniedError),
        ):
            stranger.status()
        eventually(lambda: len(traces.spans(ROUTER + "Forget")) == 2)
        keys = [path.stem for path in blobs(tmp_path / "store")]
        written = [json.loads(span.to_json(indent=None)) for span in traces.spans()]
    assert keys
    assert {event for span in written for event in span["events"]} == set()
    said = json.dumps([[span[name] for name in ("name", "attributes", "events", "status")] for span in written])
    for secret in (master, token, *token.split("."), "a text of mine", "paper-0", "another-tenant", *keys):
        assert secret not in said
    assert not re.search(r"(\d+, ){6}", said), "no run of token ids"
    assert not re.search(r"[0-9a-f]{33,}", said), "no key of an object or a chunk"
    declared = {f"kvquilt.{name}" for name in spans.ATTRIBUTES}
    declared |= {"rpc.system", "rpc.service", "rpc.method", "rpc.grpc.status_code"}
    assert {name for span in written for name in span["attributes"]} <= declared
