"""The adapter keeps LMCache's contract: every task ends, with the truth, whatever nodes do."""

import asyncio
import select
import time

import pytest
import torch

from kvquilt.integrations.lmcache.identity import salt_namespace
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.tokens import create_secret, create_token
from tests.lmcache.nodes import node_at
from tests.lmcache.objects import KV, calling, content, key, memory
from tests.proxy import throttle
from tests.servers.certificates import certificates
from tests.servers.process import running
from tests.stack import in_thread

MLA = ((torch.float16, (3, 32, 57)),)
GROUPS = ((torch.bfloat16, (2, 2, 32, 24)), (torch.bfloat16, (2, 1, 32, 8)))
FP8 = ((torch.float8_e4m3fn, (2, 3, 32, 24)),)
MIXED = ((torch.bfloat16, (2, 2, 32, 24)), (torch.float32, (7,)))


@pytest.mark.parametrize("shapes", [KV, MLA, GROUPS, FP8, MIXED], ids=["kv", "mla", "groups", "fp8", "mixed"])
def test_what_is_loaded_is_what_was_stored_in_any_layout(node, shapes):
    keys = [key(chunk) for chunk in range(3)]
    objects = [memory(shapes, seed) for seed in range(3)]
    with calling(node.address) as caller:
        assert caller.store(keys, objects) > 0
    with calling(node.address) as other:
        assert other.lookup([*keys, key(99)], shapes) == [0, 1, 2]
        buffers = [memory(shapes) for _ in keys]
        assert other.load(keys, buffers) == [0, 1, 2]
        assert list(map(content, buffers)) == list(map(content, objects))


def test_events_are_distinct_and_silent_until_a_task_ends(node):
    with calling(node.address) as one, calling(node.address) as two:
        fds = [
            getter()
            for adapter in (one.adapter, two.adapter)
            for getter in (
                adapter.get_store_event_fd,
                adapter.get_lookup_and_lock_event_fd,
                adapter.get_load_event_fd,
            )
        ]
        assert len(set(fds)) == 6
        assert select.select(fds, [], [], 0)[0] == []


def test_an_object_is_stored_once_and_gaps_stay_gaps(node):
    with calling(node.address) as caller:
        assert caller.store([key(0), key(2)], [memory(seed=0), memory(seed=2)]) > 0
        assert caller.store([key(0), key(1)], [memory(seed=0), memory(seed=1)]) > 0
        assert caller.counters["stored"] == 3
        assert caller.counters["present"] == 1
        assert caller.lookup([key(chunk) for chunk in range(5)]) == [0, 1, 2]
        buffers = [memory() for _ in range(4)]
        assert caller.load([key(3), key(2), key(4), key(0)], buffers) == [1, 3]
        assert content(buffers[0]) == bytes(len(content(buffers[0])))
        assert caller.counters["missed"] == 2


@pytest.mark.parametrize(
    "other",
    [
        key(1),
        key(0, model="another/model"),
        key(0, rank=0x02000200),
        key(0, group=1),
    ],
    ids=["chunk", "model", "rank", "group"],
)
def test_another_key_is_another_object(node, other):
    with calling(node.address) as caller:
        caller.store([key(0)], [memory(seed=0)])
        assert caller.load([other], [memory()]) == []
        assert caller.load([key(0)], [memory()]) == [0]


def test_another_shape_type_or_revision_is_a_miss(node):
    with calling(node.address) as caller:
        caller.store([key(0)], [memory(seed=0)])
        for shapes in (((torch.bfloat16, (2, 3, 16, 48)),), ((torch.float16, (2, 3, 32, 24)),)):
            assert caller.lookup([key(0)], shapes) == []
            assert caller.load([key(0)], [memory(shapes)]) == []
    with calling(node.address, models={"a/model": {"revision": "2"}}) as caller:
        assert caller.lookup([key(0)]) == []


def test_eight_bits_are_close_and_smaller(node):
    large = ((torch.bfloat16, (2, 4, 256, 128)),)
    stored = memory(large, 0)
    with calling(node.address, models={"a/model": {"level": "high", "head_dim": 64}}) as caller:
        assert 0 < caller.store([key(0)], [stored]) < 0.55 * stored.get_size()
        buffer = memory(large)
        assert caller.load([key(0)], [buffer]) == [0]
    was, now = (one.raw_data.view(torch.bfloat16).float() for one in (stored, buffer))
    assert 0 < (was - now).norm() / was.norm() < 0.02


def test_a_damaged_object_is_a_miss_and_can_be_stored_again(node):
    with calling(node.address) as caller:
        caller.store([key(0), key(1)], [memory(seed=0), memory(seed=1)])
        for blob in node.blobs:
            data = bytearray(blob.read_bytes())
            data[len(data) // 2] ^= 1
            blob.write_bytes(data)
        buffers = [memory(), memory()]
        assert caller.load([key(0), key(1)], buffers) == []
        assert not any(map(any, map(content, buffers)))
        assert caller.counters["damaged"] == 2
        assert caller.lookup([key(0), key(1)]) == []
        assert caller.store([key(0)], [memory(seed=0)]) > 0
        assert caller.load([key(0)], [memory()]) == [0]


def test_nan_is_not_stored(node):
    bad = memory(seed=0)
    bad.raw_data.view(torch.bfloat16)[5] = float("nan")
    with calling(node.address) as caller:
        assert caller.store([key(0), key(1)], [bad, memory(seed=1)]) == -1
        assert caller.lookup([key(0), key(1)]) == [1]
        assert caller.counters["refused"] == 1


def test_salts_have_the_namespaces_that_are_named_for_them(node, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("0123456789abcdef" * 4)
    named = {"master_secret_file": str(secret), "namespaces": {"red": "tenant-red", "blue": "tenant-blue"}}
    with calling(node.address, **named) as caller:
        caller.store([key(0, "red"), key(0)], [memory(seed=0), memory(seed=1)])
        assert caller.lookup([key(0, "red"), key(0, "blue"), key(0)]) == [0, 2]
        assert caller.load([key(0, "blue")], [memory()]) == []
        assert caller.store([key(0, "green")], [memory(seed=0)]) == -1
        assert caller.lookup([key(0, "green")]) == []
        assert caller.counters["refused_salts"] == 2
    with calling(node.address, **named, unknown_salts="derive") as caller:
        assert caller.store([key(0, "green")], [memory(seed=0)]) > 0
        assert caller.lookup([key(0, "green"), key(0, "violet")]) == [0]
    held = asyncio.run(_namespaces(node.address))
    assert held == {"tenant-red": 1, "public": 1, salt_namespace("green", secret.read_bytes()): 1}
    asyncio.run(_forget(node.address, "tenant-red"))
    with calling(node.address, **named) as caller:
        assert caller.lookup([key(0, "red"), key(0)]) == [1]


async def _namespaces(address: str) -> dict[str, int]:
    client = NodeClient(address)
    try:
        status = await client.status(deadline=30)
        return {item.namespace: item.objects for item in status.namespaces}
    finally:
        await client.close()


async def _forget(address: str, namespace: str) -> None:
    client = NodeClient(address, Credentials(namespace=namespace))
    try:
        receipt = await client.forget(documents=["lmcache:a/model"], deadline=30)
        assert len(receipt.deleted) == 1
    finally:
        await client.close()


def test_nodes_are_called_with_tls_and_a_token_and_refuse_who_has_none(tmp_path):
    pems = certificates(tmp_path)
    secret, master = tmp_path / "tokens", tmp_path / "master"
    create_secret(secret)
    master.write_text("0123456789abcdef" * 4)
    token = tmp_path / "token"
    token.write_text(create_token(secret, Identity("lmcache", ("tenant-red",)), 3600, time.time()))
    security = {"tls_cert": pems.server, "tls_key": pems.server_key, "token_key": secret}
    flags = [text for name, path in security.items() for text in ("--set", f"node.security.{name}={path}")]
    named = {"master_secret_file": str(master), "namespaces": {"red": "tenant-red", "blue": "tenant-blue"}}
    shown = {"tls_ca": str(pems.ca), "token_file": str(token)}
    with running(node_at(tmp_path / "secured", *flags)) as node:
        with calling(node.address, credentials=shown, **named) as caller:
            assert caller.store([key(0, "red")], [memory(seed=0)]) > 0
            assert caller.load([key(0, "red")], [memory()]) == [0]
            assert caller.store([key(0, "blue")], [memory(seed=0)]) == -1
            assert caller.store([key(0)], [memory(seed=0)]) == -1
        for wrong in ({"tls_ca": str(pems.ca)}, {"tls_ca": str(pems.other_ca), "token_file": str(token)}, {}):
            with calling(node.address, credentials=wrong, **named) as caller:
                assert caller.lookup([key(0, "red")]) == []
                assert caller.load([key(0, "red")], [memory()]) == []


def test_tasks_end_while_nodes_are_down_and_succeed_when_they_are_back(node):
    node.kill()
    with calling(node.address, lookup_deadline=5) as caller:
        for _ in range(8):
            assert caller.store([key(0)], [memory(seed=0)]) == -1
            assert caller.lookup([key(0)]) == []
            assert caller.load([key(0)], [memory()]) == []
        assert caller.counters["node_breakers_opened"] >= 1
        assert caller.adapter.report_status()["is_healthy"]
        node.start()
        while caller.store([key(0)], [memory(seed=0)]) == -1:
            time.sleep(0.1)
        node.restart()
        while not caller.load([key(0)], [memory()]):
            time.sleep(0.1)


def test_a_node_that_hangs_in_the_middle_of_a_load_is_a_miss_and_leaves_the_buffer(node):
    large = ((torch.bfloat16, (2, 4, 256, 256)),)
    with calling(node.address) as caller:
        assert caller.store([key(0)], [memory(large, 0)]) > 0
    for then in ("hang", "close"):
        with (
            in_thread(lambda then=then: throttle(node.address, 1 << 14, 0.001, 1 << 18, then)) as slow,
            calling(slow, load_deadline=3, lookup_deadline=3) as caller,
        ):
            buffer = memory(large)
            assert caller.lookup([key(0)], large) == [0]
            assert caller.load([key(0)], [buffer]) == []
            assert not any(content(buffer))
            assert caller.counters["loads_failed"] + caller.counters["damaged"] == 1
    with calling(node.address) as caller:
        assert caller.load([key(0)], [memory(large)]) == [0]


def test_too_much_that_waits_is_dropped_and_counted(node):
    keys = [key(chunk) for chunk in range(4)]
    with calling(node.address, store_bytes=1, put_deadline=2, lookup_deadline=2) as caller:
        node.pause()
        try:
            first = caller.adapter.submit_store_task(keys[:2], [memory(seed=0), memory(seed=1)])
            second = caller.adapter.submit_store_task(keys[2:], [memory(seed=2), memory(seed=3)])
            assert caller.adapter.pop_completed_store_tasks() == {second: -1}
            assert caller.counters["dropped"] == 2
            assert caller.adapter.report_status()["store_bytes_waiting"] > 0
        finally:
            node.resume()
        done = {}
        while first not in done:
            done |= caller.adapter.pop_completed_store_tasks()
            time.sleep(0.01)
        assert caller.adapter.report_status()["store_bytes_waiting"] == 0
        caller.store(keys[2:], [memory(seed=2), memory(seed=3)])
        assert set(caller.lookup(keys)) >= {2, 3}


def test_closing_ends_what_runs_and_may_be_done_twice(node):
    with calling(node.address, put_deadline=600, lookup_deadline=600, load_deadline=600) as caller:
        node.pause()
        try:
            adapter = caller.adapter
            store = adapter.submit_store_task([key(0)], [memory(seed=0)])
            lookup = adapter.submit_lookup_and_lock_task([key(0)], {})
            load = adapter.submit_load_task([key(0)], [memory()])
            adapter.close()
        finally:
            node.resume()
        assert adapter.pop_completed_store_tasks() == {store: -1}
        assert adapter.query_lookup_and_lock_result(lookup).popcount() == 0
        assert adapter.query_load_result(load).popcount() == 0
        adapter.close()
        assert not adapter.report_status()["is_healthy"]
        after = adapter.submit_load_task([key(0)], [memory()])
        assert adapter.query_load_result(after).popcount() == 0


def test_lmcache_may_delete_and_its_listeners_are_told(node):
    told: list[tuple[str, int]] = []

    class Listener:
        def on_l2_keys_stored(self, keys, sizes):
            told.append(("stored", len(keys)))
            assert all(size > 0 for size in sizes)

        def on_l2_keys_accessed(self, keys):
            told.append(("accessed", len(keys)))

        def on_l2_keys_deleted(self, keys):
            told.append(("deleted", len(keys)))

    keys = [key(0), key(1)]
    with calling(node.address) as caller:
        caller.adapter.register_listener(Listener())
        caller.store(keys, [memory(seed=0), memory(seed=1)])
        assert caller.adapter.get_usage().total_bytes_used > 0
        caller.lookup([*keys, key(2)])
        caller.adapter.delete([key(0), key(5)])
        assert caller.lookup(keys) == [1]
        caller.adapter.delete([key(1)])
        assert caller.adapter.get_usage().total_bytes_used == 0
    assert told == [("stored", 2), ("accessed", 2), ("deleted", 1), ("accessed", 1), ("deleted", 1)]
