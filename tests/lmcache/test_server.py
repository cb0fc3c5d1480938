"""LMCache's real server on CPU, with real nodes: what it stores survives it, and a node's fault is none of its own."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.lmcache.nodes import node_at
from tests.lmcache.server import CHUNK_BYTES, CHUNKS, SHAPES, engine, server_at
from tests.proxy import throttle
from tests.servers.process import running
from tests.stack import eventually, in_thread

FIGURES = Path("build") / "lmcache-figures.json"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("lmcache")


@pytest.fixture(scope="module")
def nodes(folder):
    """Two nodes, each with a store of its own."""
    with running(node_at(folder / "node-0")) as first, running(node_at(folder / "node-1")) as second:
        yield first, second


@pytest.fixture(scope="module")
def server(folder, nodes):
    secret = folder / "secret"
    secret.write_text("0123456789abcdef" * 4)
    tenants = {"master_secret_file": str(secret), "namespaces": {"red": "tenant-red", "blue": "tenant-blue"}}
    addresses = [node.address for node in nodes]
    with running(server_at(folder / "server", *addresses, lookup_deadline=20, load_deadline=60, **tenants)) as process:
        yield process


def test_stored_chunks_are_loaded_after_restarts_of_server_and_nodes(server, nodes):
    with engine(server) as client:
        assert client.load(0) == []
        checksums = client.store(0)
    assert len(checksums) == CHUNKS
    eventually(lambda: server.counters["stored"] == CHUNKS)
    counters = server.counters
    assert counters["stored_raw_bytes"] == CHUNKS * CHUNK_BYTES
    assert counters["stored_bytes"] < 0.7 * counters["stored_raw_bytes"]
    assert sum(len(node.blobs) for node in nodes) == CHUNKS
    FIGURES.parent.mkdir(exist_ok=True)
    FIGURES.write_text(json.dumps({name: counters[name] for name in ("stored_raw_bytes", "stored_bytes")}))

    server.restart()
    with engine(server) as client:
        assert client.load(0) == checksums
        assert server.counters["loaded"] == CHUNKS
        for node in nodes:
            node.restart()
        eventually(lambda: client.load(0) == checksums)


def test_salts_are_tenants(server):
    with engine(server) as client:
        before = server.counters["stored"]
        checksums = client.store(10, "red")
        eventually(lambda: server.counters["stored"] == before + CHUNKS)
        assert client.load(10, "blue") == []
        assert client.load(10) == []
        assert client.load(10, "red") == checksums
        client.store(20, "green")
        eventually(lambda: server.counters["refused_salts"] > 0)
    server.restart()
    with engine(server) as client:
        assert client.load(10, "blue") == []
        assert client.load(20, "green") == []
        assert client.load(10, "red") == checksums


def test_a_damaged_chunk_is_a_miss_and_those_before_it_are_not(server, nodes):
    with engine(server) as client:
        before = server.counters["stored"]
        known = {blob for node in nodes for blob in node.blobs}
        checksums = client.store(30)
        eventually(lambda: server.counters["stored"] == before + CHUNKS)
        server.restart()
    fresh = [blob for node in nodes for blob in node.blobs if blob not in known]
    assert len(fresh) == CHUNKS
    data = bytearray(fresh[0].read_bytes())
    data[len(data) // 2] ^= 16
    fresh[0].write_bytes(data)
    with engine(server) as client:
        loaded = client.load(30)
        assert len(loaded) < CHUNKS
        assert loaded == checksums[: len(loaded)]
        assert server.counters["damaged"] == 1
        again = client.store(30)  # what was loaded, and new KV where nothing came
        assert again[: len(loaded)] == loaded
        eventually(lambda: server.counters["stored"] == 1)
        assert client.load(30) == again


def test_a_node_that_dies_in_mid_load_costs_what_is_not_there_yet(folder):
    with (
        running(node_at(folder / "dying")) as node,
        in_thread(lambda: throttle(node.address, 1 << 16, 0.01)) as slow,
        running(server_at(folder / "other", slow, calls=1, lookup_deadline=20, load_deadline=60)) as server,
    ):
        with engine(server) as client:
            checksums = client.store(0)
            eventually(lambda: server.counters["stored"] == CHUNKS)
        server.restart()
        with engine(server) as client, ThreadPoolExecutor(1) as thread:
            loading = thread.submit(client.load, 0)
            eventually(lambda: server.counters["loaded"] >= 1 or loading.done())
            node.kill()
            loaded = loading.result()
            assert 1 <= len(loaded) < CHUNKS
            assert loaded == checksums[: len(loaded)]
            assert client.load(0) == []
            assert server.status["is_healthy"]
            node.start()
            eventually(lambda: client.load(0) == checksums)


def test_lmcaches_own_benchmark_passes_over_kvquilt(server):
    before = server.counters["stored"]
    command = [
        str(Path(sys.executable).with_name("lmcache")), "bench", "server", "--mode", "cpu", "--rpc-url", server.rpc,
        "--url", server.http, "--kvcache-shape-spec", SHAPES, "--num-tokens", "512", "--start", "100", "--end", "103",
        "--interval", "1",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.stdout.count("CHECKSUM MATCH OK") == 3, done.stdout[-2000:]
    eventually(lambda: server.counters["stored"] == before + 6)


def test_parameters_that_cannot_be_end_the_server_with_the_reason(folder):
    wrong = server_at(folder / "wrong", "127.0.0.1:1", nodez="x")
    wrong.folder.mkdir()
    with pytest.raises(RuntimeError, match="lmcache"):
        wrong.start()
    assert "expected parameters of kvquilt's adapter: nodes," in wrong.said
    assert "got 'nodez'" in wrong.said
