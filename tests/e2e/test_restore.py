"""An older index is put in place beside newer objects: what docs/operations.md says of a restore is what happens."""

import asyncio
import shutil
import sqlite3
import subprocess

import pytest

from kvquilt_codec.types import Level
from kvquilt_rpc.node_client import NodeClient
from tests import servers
from tests.codec.samples import make_chunk, make_object
from tests.e2e.commands import answer
from tests.rpc.certificates import DEADLINE
from tests.stack import node_process

NAMES = ("before", "forgotten", "stored", "hanging")
OBJECTS = [make_object(make_chunk(tokens), Level.HIGH, name) for tokens, name in enumerate(NAMES, start=5)]
BEFORE, FORGOTTEN, STORED, HANGING = OBJECTS


def called(address, work):
    """Call a node."""

    async def calling():
        client = NodeClient(address)
        try:
            return await work(client)
        finally:
            await client.close()

    return asyncio.run(calling())


def put(address, *objects):
    async def work(client):
        for key, data, meta in objects:
            assert await client.put(key, data, meta, deadline=DEADLINE)

    called(address, work)


def served(address):
    """Documents of the objects that a node serves, byte for byte."""

    async def work(client):
        found = set()
        known = await client.stat([key for key, _, _ in OBJECTS], deadline=DEADLINE)
        for name, (key, data, meta) in zip(NAMES, OBJECTS, strict=True):
            if key in known:
                pieces = [piece async for piece in client.get(key, meta.model_fingerprint, deadline=DEADLINE)]
                assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == data
                found.add(name)
        return found

    return called(address, work)


def backed_up(index, copy):
    source, target = sqlite3.connect(f"file:{index}?mode=ro", uri=True), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()


def pinned(address):
    return called(address, lambda client: client.status(deadline=DEADLINE)).pinned_bytes


def ended(process):
    process.terminate()
    assert process.wait(60) == 0


def test_an_older_index_in_sqlite_beside_newer_objects(tmp_path):
    store, copy = tmp_path / "store", tmp_path / "index.backup"
    with node_process(store) as (process, address):
        put(address, BEFORE, FORGOTTEN)
        backed_up(store / "index.sqlite", copy)
        put(address, STORED)
        called(address, lambda client: client.forget(documents=["forgotten"], deadline=DEADLINE))
        called(address, lambda client: client.touch([BEFORE[0]], ["added"], deadline=DEADLINE))
        called(address, lambda client: client.pins.pin(documents=["before"], deadline=DEADLINE))
        assert served(address) == {"before", "stored"}
        assert pinned(address) > 0
        ended(process)
    for suffix in ("-wal", "-shm"):
        (store / f"index.sqlite{suffix}").unlink(missing_ok=True)
    shutil.copy(copy, store / "index.sqlite")
    (dry,) = answer("repair", "--data-dir", store, "--dry-run")
    assert (dry["dropped"], dry["adopted"]) == (1, 1)
    with node_process(store) as (_, address):
        assert served(address) == {"before", "stored"}, "adopted, and what was forgotten is not found"
        assert pinned(address) == 0, "as it was when the copy was made"
        unknown = called(address, lambda client: client.forget(documents=["added"], deadline=DEADLINE))
        assert not unknown.deleted, "a document that was added later is not known"
        known = called(address, lambda client: client.forget(documents=["before"], deadline=DEADLINE))
        assert list(known.deleted) == [BEFORE[0]]
        assert called(address, lambda client: client.forget(documents=["stored"], deadline=DEADLINE)).deleted


def test_what_could_not_be_deleted_yet_is_adopted_again_and_must_be_forgotten_again(tmp_path):
    """The list of what is to be deleted is in the index: an older one does not have it."""
    pytest.importorskip("redis")
    folder, copy = tmp_path / "node", tmp_path / "index.backup"
    with servers.valkey(tmp_path / "valkey") as server:
        flags = [
            "--set",
            "node.store=redis",
            "--set",
            f"node.redis_url={server.url}",
            "--set",
            "node.redis_timeout=0.5",
        ]
        with node_process(folder, *flags) as (process, address):
            put(address, HANGING)
            backed_up(folder / "redis" / "index.sqlite", copy)
            server.process.pause()
            receipt = called(address, lambda client: client.forget(documents=["hanging"], deadline=DEADLINE))
            assert receipt.pending == 1
            process.kill()
            process.wait(30)
            server.process.resume()
        for suffix in ("-wal", "-shm"):
            (folder / "redis" / f"index.sqlite{suffix}").unlink(missing_ok=True)
        shutil.copy(copy, folder / "redis" / "index.sqlite")
        with node_process(folder, *flags) as (_, address):
            assert served(address) == {"hanging"}
            assert called(address, lambda client: client.forget(documents=["hanging"], deadline=DEADLINE)).deleted
            assert served(address) == set()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli of Debian's redis-tools is not installed")
def test_an_older_index_in_redis_beside_newer_objects(tmp_path):
    pytest.importorskip("redis")
    data, copy = tmp_path / "valkey", tmp_path / "index.rdb"
    flags = ["--set", "node.index=redis", "--set", "node.eviction=lru", "--set", "node.store=object"]
    flags += ["--set", f"node.object_url=file://{tmp_path}/objects"]
    with servers.valkey(data) as server:
        flags += ["--set", f"node.redis_url={server.url}"]
        with node_process(tmp_path / "node", *flags) as (process, address):
            put(address, BEFORE, FORGOTTEN)
            subprocess.run(["redis-cli", "-u", server.url, "--rdb", copy], check=True, capture_output=True, timeout=60)
            put(address, STORED)
            called(address, lambda client: client.forget(documents=["forgotten"], deadline=DEADLINE))
            ended(process)
        server.process.kill()
        shutil.copy(copy, data / "dump.rdb")
        server.process.start()
        with node_process(tmp_path / "node", *flags) as (process, address):
            keys = [key for key, _, _ in OBJECTS]
            known = called(address, lambda client: client.stat(keys, deadline=DEADLINE))
            assert set(known) == {BEFORE[0], FORGOTTEN[0]}, "what was stored since is missed"
            ended(process)
        (done,) = answer("repair", *flags)
        assert (done["adopted"], done["dropped"]) == (1, 1)
        with node_process(tmp_path / "node", *flags) as (_, address):
            assert served(address) == {"before", "stored"}
