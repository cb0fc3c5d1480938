"""What workers ask for leaves what blends leave: rows in the access log, records for `kvquilt why`, sums."""

import json

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from kvquilt import Client
from kvquilt.cli.main import app
from kvquilt.worker import Extent, KvToSave
from kvquilt_codec.tiers import Tier
from kvquilt_router.types import NODE_REASONS
from tests.stack import router_only, serve
from tests.worker.conftest import Worker, asked, tokens

TEXT = tokens(10, 150, 130, 20)
SEGMENTS = {"prefix_tokens": 10, "document_tokens": (150, 130)}
OTHER = np.concatenate([TEXT[:160], tokens(100, 30, seed=3)])
PARTS = {"prefix_tokens": 10, "document_tokens": (150, 100)}
SLOW, FAST = 10.0, 1e-9


@pytest.fixture
def running(tiny_model, tmp_path):
    folder = tmp_path / "log"
    with serve(tiny_model, tmp_path / "store", chunk_tokens=64, access_log=folder) as address:
        worker = Worker(tiny_model, address)
        with Client(address) as client:
            yield worker, client, folder
        worker.cache.close()


def save(worker, text, **segments):
    worker.cache.save(KvToSave(asked(text, **segments), worker.computed(text), exact_tokens=len(text)))
    worker.cache.settle()


def table(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("segments", [SEGMENTS, {}], ids=["segments", "plain"])
@pytest.mark.parametrize("extent", [Extent.EXACT, Extent.AUTO])
def test_what_workers_missed_and_loaded_is_what_a_simulation_replays(tiny_model, tmp_path, extent, segments):
    folder = tmp_path / "log"
    with serve(tiny_model, tmp_path / "store", chunk_tokens=64, background=False, access_log=folder) as address:
        worker = Worker(tiny_model, address)
        request = asked(TEXT, extent=extent, seconds_per_token=SLOW, **segments)
        missed = worker.cache.plan(request, 30)
        assert (missed.extent, missed.reason) == (Extent.NOTHING, "nothing_stored")
        save(worker, TEXT, **segments)
        plan, _, report = worker.load(request)
        assert plan.extent is Extent.EXACT
        worker.cache.close()
    rows = table(folder)
    first = [row for row in rows if row["request"] == missed.request_id]
    second = [row for row in rows if row["request"] == report.report.request_id]
    assert [*first, *second] == rows
    assert not any(row["found"] for row in first)
    assert all(row["found"] for row in second[:-1])
    assert sum(row["tokens"] for row in second if row["found"]) == plan.kv_tokens
    # The same text has the same key, missed or found; a question's last tokens are no chunk yet.
    assert {row["key"] for row in first} >= {row["key"] for row in second[:3]}
    assert all(row["stored_bytes"] > 0 < row["compute_seconds"] for row in rows)
    result = CliRunner().invoke(app, ["simulate", str(folder), "--capacity", "1GiB", "--policy", "lru", "--json"])
    rate = json.loads(result.stdout.splitlines()[0])["hit_rate"]
    assert rate == pytest.approx(sum(row["found"] for row in rows) / len(rows))


def test_why_tells_of_loads_and_of_offers_of_nothing(running):
    worker, client, _ = running
    plan = worker.cache.plan(asked(TEXT, extent=Extent.EXACT, **SEGMENTS), 30)
    told = client.why(plan.request_id)
    assert {chunk.cause for chunk in told.chunks} == {"never_stored"}
    assert sum(chunk.end - chunk.begin for chunk in told.chunks) == 290
    save(worker, TEXT, **SEGMENTS)
    _, _, report = worker.load(asked(OTHER, extent=Extent.EXACT, **PARTS))
    told = client.why(report.report.request_id)
    exact = [chunk for chunk in told.chunks if chunk.outcome == "exact"]
    missed = [chunk for chunk in told.chunks if chunk.outcome == "computed"]
    assert (exact[0].begin, exact[-1].end) == (0, 160)
    assert (missed[0].begin, missed[-1].end) == (160, 260)
    quiet = worker.cache.plan(asked(tokens(200, seed=7), extent=Extent.EXACT, transient=True), 30)
    assert (quiet.reason, quiet.request_id) == ("nothing_stored", "")


def test_what_was_stored_and_would_have_come_too_late_is_not_told_as_missing(running):
    worker, client, _ = running
    save(worker, TEXT, **SEGMENTS)
    request = asked(TEXT, extent=Extent.AUTO, seconds_per_token=FAST, **SEGMENTS)
    worker.load(request)  # what was never measured is tried
    refused = worker.cache.plan(request, 30)
    assert refused.reason == "slower_than_computing"
    told = client.why(refused.request_id)
    reasons = {chunk.miss_reason for chunk in told.chunks}
    assert "slower_than_computing" in reasons
    counters = client.status().counters
    assert counters["chunks_missed_slower_than_computing"] > 0
    assert counters["chunks_missed_slower_than_computing"] + counters["chunks_missed_not_stored"] == len(told.chunks)


def test_sums_of_a_namespace_hold_loads_and_offers_of_nothing(running):
    worker, client, _ = running

    def sums():
        (own,) = client.status().usage.values()
        assert sum(own[f"tokens_from_{tier.value}"] for tier in Tier) == own["tokens_from_store"] == own["tokens_exact"]
        return {name: own[name] for name in ("blends", "tokens_exact", "tokens_computed")}

    worker.cache.plan(asked(TEXT, extent=Extent.EXACT, **SEGMENTS), 30)
    assert sums() == {"blends": 1, "tokens_exact": 0, "tokens_computed": len(TEXT)}
    save(worker, TEXT, **SEGMENTS)
    plan, _, _ = worker.load(asked(TEXT, extent=Extent.EXACT, **SEGMENTS))
    assert sums() == {
        "blends": 2,
        "tokens_exact": plan.kv_tokens,
        "tokens_computed": 2 * len(TEXT) - plan.kv_tokens,
    }
    worker.cache.plan(asked(TEXT, extent=Extent.EXACT, **SEGMENTS), 30)
    assert sums()["blends"] == 2, "a plan that offers something is no request yet"


def test_a_head_that_is_shorter_than_what_the_worker_takes_is_not_offered(running):
    worker, client, _ = running
    save(worker, TEXT, **SEGMENTS)
    for extent in (Extent.EXACT, Extent.AUTO):
        request = {"extent": extent, "seconds_per_token": SLOW, "prefix_tokens": 10, "document_tokens": (90,)}
        other = np.concatenate([TEXT[:10], tokens(120, seed=4)])
        assert worker.cache.plan(asked(other, least_tokens=10, **request), 30).kv_tokens == 10
        plan = worker.cache.plan(asked(other, least_tokens=11, **request), 30)
        assert (plan.extent, plan.reason) == (Extent.NOTHING, "too_short")
        assert client.why(plan.request_id).chunks


def test_where_no_node_answers_that_is_told_not_that_nothing_was_stored(tiny_model):
    with router_only(tiny_model, ["127.0.0.1:1"]) as address, Client(address) as client:
        worker = Worker(tiny_model, address)
        for extent in (Extent.EXACT, Extent.AUTO):
            plan = worker.cache.plan(asked(TEXT, extent=extent, **SEGMENTS), 30)
            assert plan.reason == "nothing_stored"
            assert {chunk.miss_reason for chunk in client.why(plan.request_id).chunks} <= set(NODE_REASONS)
        worker.cache.close()
