"""Where the KV of a request was read, as a router tells it: real nodes with tiers, and every place that it is shown."""

import json
import subprocess
import sys
import urllib.request
from collections import Counter
from contextlib import asynccontextmanager, contextmanager

import numpy as np
import pytest
from pyarrow import parquet

from kvquilt import Client, Document
from kvquilt_cache_node import batches
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.tiers import Tier
from kvquilt_router.engine.model import prepare
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from tests import servers
from tests.metrics import metrics_port, scrape
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, in_thread

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 200, 150))
QUESTION = [7, 8, 9, 10]
STORED = len(PREFIX) + len(TEXT) + len(OTHER)
QUIET = {"background": False, "warm_up_passages": 0, "chunk_tokens": 256, "profile": "", "ungated": True}
METRIC = "kvquilt_router_stored_tokens_total"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@contextmanager
def running(model, folder, node, **router):
    """A node and a router in this process, everything that shows something turned on; yields a client and the ports."""
    page, metrics, of_node = metrics_port(), metrics_port(), metrics_port()
    shown = {"status_port": page, "metrics_port": metrics, "access_log": folder / "log", "access_log_seconds": 0.05}

    @asynccontextmanager
    async def both():
        settings = NodeSettings(
            port=0, path=folder / "node", fsync=False, drain_seconds=5, metrics_port=of_node, **node
        )
        async with running_node(settings) as address:
            chosen = RouterSettings(port=0, nodes=address, drain_seconds=5, **{**QUIET, **shown, **router})
            async with running_router(chosen, model) as router_address:
                yield router_address

    with in_thread(both) as address, Client(address) as client:
        client.page, client.metrics, client.of_node = page, metrics, of_node
        yield client


def prefetched(client):
    done = list(client.prefetch([Document("a", TEXT), Document("b", OTHER)], shared_prefix=PREFIX))
    assert not any(item.failed for item in done)


def blend(client):
    """The report of a request that finds everything, and the tiers of its chunks."""
    report = client.blend([TEXT, OTHER, QUESTION], shared_prefix=PREFIX, policy="none").report
    assert sum(report.tokens_by_tier().values()) == report.tokens_exact + report.tokens_reused == STORED
    return report, {chunk.tier for chunk in report.chunks}


def exported(client):
    page = scrape(client.metrics)
    return {tier.value: page.total(METRIC, tier=tier.value) for tier in Tier if page.total(METRIC, tier=tier.value)}


def top(client):
    command = [sys.executable, "-m", "kvquilt", "top", client.target, "--once"]
    told = subprocess.run([*command, "--json"], capture_output=True, check=True, timeout=300)
    drawn = subprocess.run(command, capture_output=True, check=True, timeout=300, text=True)
    return json.loads(told.stdout), drawn.stdout


def shown(client, request_id):
    """The request as the status page has it."""
    url = f"http://127.0.0.1:{client.page}/status.json?request={request_id}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return json.load(answer)


def logged(folder):
    """Tiers by request, of the access log."""
    found = {}
    for path in sorted(folder.glob("*.parquet")):
        for row in parquet.read_table(path).to_pylist():
            found.setdefault(row["request"], []).append(row["tier"])
    return found


def test_a_chunk_comes_from_the_store_then_from_the_hot_tier_and_all_that_shows_it_says_so(model, tmp_path):
    node = {
        "store": "object",
        "object_url": f"file://{tmp_path}/cold",
        "write_mode": "back",
        "hot_store": "file",
        "memory_bytes": 0,
        "hot_timeout": 30.0,
    }
    with running(model, tmp_path, node) as client:
        missed = client.blend([OTHER, QUESTION], shared_prefix=PREFIX).report
        assert {chunk.tier for chunk in missed.chunks} == {""}
        prefetched(client)
        eventually(lambda: scrape(client.of_node).value("kvquilt_node_queue_entries") == 0)
        (cold, tiers), expected = blend(client), Counter()
        assert tiers == {"store"}
        expected.update(cold.tokens_by_tier())
        while tiers != {"hot"}:  # copies are made in the background
            hot, tiers = blend(client)
            assert tiers <= {"store", "hot"}
            expected.update(hot.tokens_by_tier())
        assert exported(client) == expected
        page = scrape(client.metrics)
        assert page.total(METRIC) == sum(page.total("kvquilt_router_tokens_total", kind=k) for k in ("exact", "reused"))
        own = client.status().usage["public"]
        assert {name: own[f"tokens_from_{name}"] for name in expected} == expected
        seen, screen = top(client)
        assert seen["tiers"] == seen["recent_tiers"]
        assert {tier: count for tier, count in seen["tiers"].items() if count} == expected
        words = [line.split() for line in screen.splitlines()]
        assert ["of", "them", "read", "from"] in [line[:4] for line in words]
        assert ["hot", str(expected["hot"])] in [line[:2] for line in words]
        for tier, report in (("store", cold), ("hot", hot)):
            data = shown(client, report.request_id)["request"]
            assert {chunk["tier"] for chunk in data["chunks"]} == {tier}
            assert data["tokens_by_tier"] == {tier: STORED}
            assert {chunk.tier for chunk in client.why(report.request_id).chunks} == {tier}
            eventually(lambda name=report.request_id: name in logged(tmp_path / "log"))
            assert set(logged(tmp_path / "log")[report.request_id]) == {tier}
        assert set(logged(tmp_path / "log")[missed.request_id]) == {""}
        asked = [sys.executable, "-m", "kvquilt", "why", hot.request_id, "--router", client.target]
        done = subprocess.run(asked, capture_output=True, check=True, timeout=300, text=True)
        assert f"tokens read from: {STORED} hot" in done.stdout


def test_memory_in_front_of_valkey_serves_the_third_request(model, tmp_path):
    with servers.valkey(tmp_path / "valkey") as valkey:
        node = {"store": "redis", "redis_url": valkey.url, "memory_bytes": 64 << 20}
        with running(model, tmp_path, node) as client:
            prefetched(client)
            assert [blend(client)[1] for _ in range(3)] == [{"store"}, {"store"}, {"memory"}]
            assert exported(client) == {"store": 2 * STORED, "memory": STORED}
            edited = [*PREFIX, *TEXT[:120], 499, *TEXT[120:], *QUESTION]
            report = client.blend_plain(edited, policy="none").report
            assert report.tokens_reused > 0, "parts of a stored chunk, compared token by token"
            stored = report.tokens_exact + report.tokens_reused + report.tokens_recomputed
        assert report.tokens_by_tier() == {"memory": stored}


def test_what_the_router_had_kept_came_from_no_node(model, tmp_path):
    with running(model, tmp_path, {"store": "file"}, held_bytes=64 << 20) as client:
        prefetched(client)
        assert [blend(client)[1] for _ in range(2)] == [{"store"}, {"router"}]
        assert exported(client) == {"store": STORED, "router": STORED}


@pytest.mark.parametrize("number", [0, 77])
def test_a_node_that_does_not_say_or_says_what_is_not_known_is_shown_as_unknown(model, tmp_path, monkeypatch, number):
    real = batches.header_of

    def older(opening):
        header = real(opening)
        header.tier = number
        return header

    monkeypatch.setattr(batches, "header_of", older)
    with running(model, tmp_path, {"store": "file"}) as client:
        prefetched(client)
        report, tiers = blend(client)
        assert tiers == {"unknown"}
        assert exported(client) == {"unknown": STORED}
        seen, screen = top(client)
        assert seen["tiers"]["unknown"] == STORED
        assert "unknown" in screen
        assert {chunk["tier"] for chunk in shown(client, report.request_id)["request"]["chunks"]} == {"unknown"}


def test_series_are_there_from_the_start_and_are_no_more_than_contexts_times_tiers(model, tmp_path):
    with running(model, tmp_path, {"store": "memory"}) as client:
        page = scrape(client.metrics)
        assert page.labels(METRIC, "tier") == {tier.value for tier in Tier}
        assert page.labels(METRIC, "context") == {"exact", "pair", "warm", "base"}
        assert page.total(METRIC) == 0
        prefetched(client)
        blend(client)
        after = scrape(client.metrics)
        assert {key for key in page.values if key[0] == METRIC} == {key for key in after.values if key[0] == METRIC}
