"""`kvquilt drain`: a node goes out of service under load, and no request notices."""

import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import BadRequestError, PermissionDeniedError
from kvquilt_codec.types import Level
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.node_control import DrainAction, node_control
from kvquilt_rpc.security import Credentials, ServerSecurity
from tests import servers
from tests.cache_node.calls import CHUNK
from tests.codec.samples import make_object
from tests.e2e.commands import answer, kvquilt
from tests.e2e.test_background import equal_to_full_prefill
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import DEADLINE, Signer
from tests.stack import eventually, node_process, router_only

SHARED_PREFIX = [11, 12, 13]
OPTIONS = {"level": "lossless", "shared_prefix": SHARED_PREFIX, "policy": "none"}
SETTINGS = {
    "chunk_tokens": 16,
    "warm_up_passages": 0,
    "background": False,
    "health_seconds": 0.2,
    "stat_deadline": 30,
    "fetch_deadline": 30,
}
WAITS = ("--set", "router.health_seconds=0.2", "--timeout", "120")


def document(seed):
    return Document(f"d{seed}", np.random.default_rng(seed).integers(3, 500, 200).tolist())


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@contextmanager
def load(model, router):
    """Blends and prefetches that go on; yields what was answered, each right, and raises what was not."""
    ended, answered = threading.Event(), []

    def request(client, seed):
        asked = document(seed % 4)
        kv = client.blend([asked.content, [5, 6, 7]], **OPTIONS)
        equal_to_full_prefill(model, kv)
        (stored,) = client.prefetch([document(seed)], shared_prefix=SHARED_PREFIX, level="lossless")
        assert not stored.failed, stored.failure_reason
        answered.append({chunk.miss_reason for chunk in kv.report.chunks})

    def work(first):
        with Client(router) as client:
            seed = first
            while not ended.is_set():
                request(client, seed)
                seed += 10

    with ThreadPoolExecutor(2) as pool:
        working = [pool.submit(work, first) for first in range(2)]
        try:
            yield answered
        finally:
            ended.set()
        for one in working:
            one.result()


def test_a_node_is_drained_stopped_and_comes_back_under_load(model, tmp_path):
    with (
        node_process(tmp_path / "a") as (_, first),
        node_process(tmp_path / "b") as (process, second),
        router_only(model, [first, second], **SETTINGS) as router,
        Client(router) as client,
    ):
        for seed in range(4):
            list(client.prefetch([document(seed)], shared_prefix=SHARED_PREFIX, level="lossless"))
        with load(model, router) as answered:
            eventually(lambda: len(answered) > 4)
            *_, drained = answer("drain", second, *WAITS)
            assert drained["result"] == "drained"
            assert (drained["running_calls"], drained["queue_entries"]) == (0, 0)
            assert {node.target: node.serving for node in client.status().nodes} == {first: True, second: False}
            before = len(answered)
            eventually(lambda: len(answered) > before + 4)
            (state,) = answer("drain", second, "--undo", *WAITS[:2])
            assert state["result"] == "serving"
            eventually(lambda: all(node.serving for node in client.status().nodes))
            *_, stopping = answer("drain", second, "--stop", *WAITS)
            assert stopping["result"] == "stopping"
            assert process.wait(60) == 0
            before = len(answered)
            eventually(lambda: len(answered) > before + 4)
        assert set().union(*answered) <= {"", "not_stored", "node_unavailable"}
        with node_process(tmp_path / "b", "--port", second.rpartition(":")[2]):
            eventually(lambda: all(node.serving for node in client.status().nodes))


def test_what_waits_in_the_write_queue_gets_to_the_store_first(tmp_path):
    pytest.importorskip("redis")
    key, data, meta = make_object(CHUNK, Level.HIGH)
    with servers.valkey(tmp_path / "valkey") as server:
        flags = ["--set", "node.store=redis", "--set", f"node.redis_url={server.url}", "--set", "node.write_mode=back"]
        flags += ["--set", "node.redis_timeout=0.5"]
        with node_process(tmp_path / "node", *flags) as (_, address):
            server.process.pause()
            put(address, key, data, meta)
            *_, state = answer("drain", address, "--timeout", "2", "--quiet", "0", code=7)
            assert (state["result"], state["draining"], state["queue_entries"]) == ("draining", True, 1)
            assert "1 writes and deletes" in kvquilt("drain", address, "--timeout", "0", "--quiet", "0", code=7).stdout
            server.process.resume()
            *_, state = answer("drain", address, "--timeout", "120", "--quiet", "0")
            assert (state["result"], state["queue_entries"], state["queue_bytes"]) == ("drained", 0, 0)
            assert int(server.command("DBSIZE").strip(":\r\n")) > 0


def put(address, key, data, meta):
    import asyncio

    async def called():
        client = NodeClient(address)
        try:
            assert await client.put(key, data, meta, deadline=DEADLINE)
        finally:
            await client.close()

    asyncio.run(called())


def test_interrupted_it_says_how_far_it_is_and_leaves_the_node_draining(tmp_path):
    with node_process(tmp_path) as (_, address):
        command = [sys.executable, "-m", "kvquilt", "drain", address, "--quiet", "600", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert "draining" in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == 130
        assert f"kvquilt drain {address} --undo" in said
        (state,) = answer("drain", address, "--undo")
        assert not state["draining"]


async def test_only_operators_may(tmp_path):
    signer = Signer.new(tmp_path / "key")
    settings = NodeSettings(port=0, store="memory", security=ServerSecurity(token_key=signer.public))
    async with running_node(settings) as address:
        async with node_control(address, Credentials(token=signer.token("tenant", "a", "b"))) as tenant:
            for action in DrainAction:
                with pytest.raises(PermissionDeniedError, match=r"namespace \*") as caught:
                    await tenant.drain(action, deadline=DEADLINE)
                assert caught.value.reason == "operator_only"
        async with node_control(address, Credentials(token=signer.token("operator", "*"))) as operator:
            assert not (await operator.drain(DrainAction.LOOK, deadline=DEADLINE)).draining


async def test_who_drains_is_logged_and_calls_are_served_meanwhile(tmp_path, caplog):
    key, data, meta = make_object(CHUNK, Level.HIGH)
    stopped = []
    async with running_node(NodeSettings(port=0, store="memory"), lambda: stopped.append(True)) as address:
        client = NodeClient(address)
        async with node_control(address) as operator:
            with pytest.raises(BadRequestError, match="drain it first"):
                await operator.drain(DrainAction.STOP, deadline=DEADLINE)
            assert (await operator.drain(DrainAction.BEGIN, deadline=DEADLINE)).draining
            assert await client.serving(deadline=DEADLINE) is False
            assert await client.put(key, data, meta, deadline=DEADLINE)
            await operator.drain(DrainAction.BEGIN, deadline=DEADLINE)
            assert not (await operator.drain(DrainAction.UNDO, deadline=DEADLINE)).draining
            assert await client.serving(deadline=DEADLINE) is True
            await operator.drain(DrainAction.BEGIN, deadline=DEADLINE)
            await operator.drain(DrainAction.STOP, deadline=DEADLINE)
        await client.close()
    assert stopped == [True]
    told = [record.getMessage() for record in caplog.records if record.name == "kvquilt_cache_node.draining"]
    assert len(told) == 4, told
    assert all("'anonymous'" in line and "127.0.0.1" in line for line in told)


async def test_a_node_that_shares_its_process_is_not_stopped():
    async with running_node(NodeSettings(port=0, store="memory")) as address, node_control(address) as operator:
        await operator.drain(DrainAction.BEGIN, deadline=DEADLINE)
        with pytest.raises(BadRequestError, match="process of its own"):
            await operator.drain(DrainAction.STOP, deadline=DEADLINE)
