"""A router with three node processes: one is killed under load, and no request notices."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_router.engine.model import prepare
from tests.e2e.commands import kvquilt
from tests.e2e.test_background import equal_to_full_prefill
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, node_process, router_only

DOCUMENT = Document("one", np.random.default_rng(3).integers(3, 500, 400).tolist())
SEGMENTS = [DOCUMENT.content, [5, 6, 7]]
OPTIONS = {"level": "lossless", "shared_prefix": [11, 12, 13], "policy": "none"}
SETTINGS = {
    "chunk_tokens": 16,  # so many chunks that no node is without one, wherever their ports place them
    "warm_up_passages": 0,
    "background": False,
    "health_seconds": 0.2,
    "stat_deadline": 20,
    "fetch_deadline": 20,
}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def test_a_node_that_is_killed_under_load_costs_no_request_and_no_other_nodes_chunks(model, tmp_path):
    with (
        node_process(tmp_path / "a") as (_, first),
        node_process(tmp_path / "b") as (_, second),
        node_process(tmp_path / "c") as (victim, third),
        router_only(model, [first, second, third], **SETTINGS) as router,
        Client(router) as client,
    ):
        (done,) = client.prefetch([DOCUMENT], shared_prefix=OPTIONS["shared_prefix"], level="lossless")
        assert done.failed == 0
        stored = {node.target: node.objects for node in client.status().nodes}
        assert sum(stored.values()) == done.stored
        assert all(stored.values()), "the chunks of one document are on all nodes"

        def request(_):
            kv = client.blend(SEGMENTS, **OPTIONS)
            equal_to_full_prefill(model, kv)
            return [chunk.miss_reason for chunk in kv.report.chunks]

        assert set(request(0)) == {""}
        with ThreadPoolExecutor(3) as pool:
            requests = [pool.submit(request, number) for number in range(15)]
            victim.kill()
            missed = [requested.result() for requested in requests]
        assert {reason for reasons in missed for reason in reasons} <= {"", "node_unavailable"}
        assert max(sum(map(bool, reasons)) for reasons in missed) == stored[third]
        status = client.status()
        assert status.counters["blends"] == 16
        assert status.counters["chunks_missed_node_unavailable"] == sum(sum(map(bool, reasons)) for reasons in missed)
        assert status.counters["node_breakers_opened"] >= 1
        shown = kvquilt("status", "--router", router).stdout
        assert "NOT REACHABLE" in shown
        assert all(node.rpartition(":")[2] in shown for node in stored)
        victim.wait(60)
        with node_process(tmp_path / "c", "--port", third.rpartition(":")[2]):
            eventually(lambda: set(request(0)) == {""})


def test_a_router_without_any_node_computes(model):
    with router_only(model, [], **SETTINGS) as router, Client(router) as client:
        kv = client.blend(SEGMENTS, **OPTIONS)
        equal_to_full_prefill(model, kv)
        assert {chunk.miss_reason for chunk in kv.report.chunks} == {"no_nodes"}
        assert client.status().nodes == ()
        (done,) = client.prefetch([DOCUMENT], shared_prefix=OPTIONS["shared_prefix"], level="lossless")
        assert (done.stored, done.failed) == (0, done.failed)
        assert "router.nodes" in done.failure_reason


def test_documents_that_come_while_a_node_hangs_count_as_failed_and_are_stored_afterwards(model, tmp_path):
    settings = {**SETTINGS, "stat_deadline": 0.3, "put_deadline": 0.3}
    with (
        node_process(tmp_path) as (node, address),
        router_only(model, [address], **settings) as router,
        Client(router) as client,
    ):
        os.kill(node.pid, signal.SIGSTOP)
        try:
            (done,) = client.prefetch([DOCUMENT], shared_prefix=OPTIONS["shared_prefix"], level="lossless")
        finally:
            os.kill(node.pid, signal.SIGCONT)
        assert (done.stored, done.present) == (0, 0)
        assert done.failed > 0
        assert done.failure_reason

        def stored():
            (again,) = client.prefetch([DOCUMENT], shared_prefix=OPTIONS["shared_prefix"], level="lossless")
            return not again.failed

        eventually(stored)
