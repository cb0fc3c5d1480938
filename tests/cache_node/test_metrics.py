"""What a node's metrics say: what it did, how full it is, and what becomes of them when its store does not answer."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from kvquilt_cache_node.metrics.meter import OUTCOMES
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.errors import CapacityError, IntegrityError, NotFoundError
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.types import Level
from kvquilt_rpc.metrics.asking import ANSWER_SECONDS
from kvquilt_rpc.metrics.serving import COLLECT_SECONDS
from tests import servers
from tests.cache_node.calls import CHUNK, DEADLINE, Node, put_requests, raw_bytes, serving, tensor_header
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.metrics import Scrape, metrics_port, scrape

Made = tuple[bytes, bytes, ObjectMeta]


def made(number: int, namespace: str = "public", tokens: int = 8, **more: object) -> Made:
    return make_object(make_chunk(tokens, seed=number), Level.HIGH, "doc", namespace=namespace, **more)


@asynccontextmanager
async def metered(
    store: str = "memory", path: Path | None = None, **settings: object
) -> AsyncIterator[tuple[Node, Callable[[], "asyncio.Future[Scrape]"]]]:
    """A node, and what scrapes it."""
    port = metrics_port()
    async with serving(store, path, metrics_port=port, **settings) as node:
        yield node, lambda: asyncio.ensure_future(asyncio.to_thread(scrape, port))


async def put(node: Node, one: Made) -> None:
    await node.client.put(*one, deadline=DEADLINE)


async def got(node: Node, key: bytes) -> int:
    pieces = [piece async for piece in node.client.get(key, FINGERPRINT, deadline=DEADLINE)]
    return sum(len(piece) for piece in pieces if isinstance(piece, bytes))


async def test_sums_are_those_of_the_nodes_status_and_bytes_are_those_that_went_by(tmp_path: Path) -> None:
    async with metered("file", tmp_path, memory_bytes=1 << 20, hot_store="memory") as (node, page):
        first, second = made(1), made(2, tokens=20)
        for one in (first, second, first):
            await put(node, one)
        sizes = [await got(node, first[0]) for _ in range(3)]
        await node.put_raw(put_requests(tensor_header(), raw_bytes(CHUNK)))
        with pytest.raises(NotFoundError):
            await got(node, bytes(32))
        await node.client.forget(keys=[second[0]], deadline=DEADLINE)
        seen, counters, (objects, used) = await page(), await node.counters(), await node.used()
    assert seen.value("kvquilt_node_puts_total", outcome="stored") == counters["puts_stored"] == 3
    assert seen.value("kvquilt_node_puts_total", outcome="present") == 1
    assert seen.value("kvquilt_node_gets_total") == 3
    assert seen.value("kvquilt_node_sent_bytes_total") == counters["bytes_sent"] == sum(sizes)
    assert seen.value("kvquilt_node_reads_total", tier="memory") == counters["memory_hits"] > 0
    read = seen.total("kvquilt_node_read_bytes_total")
    assert read >= sum(sizes), "each byte that was sent came out of some tier"
    assert seen.value("kvquilt_node_read_bytes_total", tier="memory") == sizes[0]
    written = seen.value("kvquilt_node_written_bytes_total", tier="store")
    assert written == used + len(second[1]), "each object went into the store once"
    assert seen.value("kvquilt_node_tier_bytes", tier="store") == used
    assert seen.value("kvquilt_node_namespace_bytes", tenant="public") == used
    assert seen.value("kvquilt_node_objects") == objects == 2
    assert seen.value("kvquilt_node_removed_objects_total", tier="store", reason="forgotten") == 1
    assert seen.value("kvquilt_codec_seconds_count", operation="encode") == 1
    assert seen.value("kvquilt_calls_total", method="PutChunk", code="OK") == 4
    assert seen.value("kvquilt_calls_total", method="GetChunk", code="OK") == 3
    assert seen.value("kvquilt_calls_total", method="GetChunk", code="NOT_FOUND") == 1
    assert seen.value("kvquilt_call_seconds_count", method="GetChunk") == 4
    assert seen.value("kvquilt_calls_running") == 0
    assert seen.value("kvquilt_node_store_operations_total", tier="store", operation="write", outcome="ok") == 3
    assert seen.value("kvquilt_node_store_operation_seconds_count", tier="store", operation="write") == 3
    assert seen.labels("kvquilt_node_store_operations_total", "outcome") <= set(OUTCOMES)
    assert seen.value("kvquilt_node_volume_free_bytes", tier="store") > 0
    assert seen.value("kvquilt_build_info", component="node", version="0.1.0", format="1", kernels="native") == 1


async def test_objects_leave_for_a_reason_and_puts_are_refused_for_one(tmp_path: Path) -> None:
    size = len(made(0)[1])
    quotas = {"namespaces": {"small": {"cap": size + 1}}, "capacity": 4 * size + 10, "sweep_seconds": 0.05}
    async with metered("file", tmp_path, **quotas) as (node, page):
        for number in range(6):
            await put(node, made(number))
        assert removed(await page(), "evicted") == 2, "six were put where four have room"
        await put(node, made(7, "small"))
        with pytest.raises(CapacityError):
            await put(node, made(8, "small", tokens=60))
        with pytest.raises(CapacityError):
            await put(node, made(9, tokens=400))
        await put(node, made(10, lifetime=Lifetime(0.01, False, time.time() + 0.01)))
        await until(page, lambda seen: removed(seen, "expired"))
        seen = await page()
    assert seen.value("kvquilt_node_puts_refused_total", reason="over_quota") == 1
    assert seen.value("kvquilt_node_puts_refused_total", reason="over_cap") == 1
    assert removed(seen, "expired") == 1
    assert seen.value("kvquilt_node_namespace_cap_bytes", tenant="small") == size + 1
    assert seen.value("kvquilt_calls_total", method="PutChunk", code="RESOURCE_EXHAUSTED") == 2


async def test_damaged_and_lost_objects_are_told_apart(tmp_path: Path) -> None:
    async with metered("file", tmp_path) as (node, page):
        for number, spoil in enumerate((lambda blob: blob.write_bytes(blob.read_bytes()[:-1]), Path.unlink)):
            one = made(number)
            await put(node, one)
            (blob,) = (tmp_path / "blobs").rglob("*.kvq")
            spoil(blob)
            with pytest.raises((IntegrityError, NotFoundError)):
                await got(node, one[0])
        seen = await page()
    assert removed(seen, "damaged") == removed(seen, "lost") == 1
    assert seen.value("kvquilt_node_damaged_total", kind="object") == 1
    assert seen.value("kvquilt_node_objects") == 0


def removed(seen: Scrape, reason: str) -> float:
    return seen.value("kvquilt_node_removed_objects_total", tier="store", reason=reason)


async def until(page: Callable[[], "asyncio.Future[Scrape]"], there: Callable[[Scrape], object]) -> None:
    """Scrape until something is there; the test's own timeout is the limit."""
    for _ in itertools.count():
        if there(await page()):
            return
        await asyncio.sleep(0.02)


async def test_a_thousand_namespaces_have_a_bounded_number_of_series_and_whole_sums() -> None:
    settings = {"metrics_namespaces": 20, "namespaces": {"named": {"floor": 1000}, "*": {"share": 1.0}}}
    async with metered(**settings) as (node, page):
        before = await page()
        for number in range(1000):
            await put(node, made(number, f"tenant-{number}", tokens=4))
        big = made(1, "big", tokens=200)
        await put(node, big)
        first = await page()
        await put(node, made(2000, "named", tokens=4))
        seen, (objects, used) = await page(), await node.used()
    for name in ("kvquilt_node_namespace_bytes", "kvquilt_node_namespace_objects"):
        assert len(seen.labels(name, "tenant")) == 21
        assert seen.labels(name, "tenant") >= first.labels(name, "tenant") > {"big", "other"}, "who has one keeps it"
        assert "named" in seen.labels(name, "tenant")
    assert seen.total("kvquilt_node_namespace_objects") == objects == 1002
    assert seen.total("kvquilt_node_namespace_bytes") == used
    assert seen.value("kvquilt_node_namespaces") == 1002
    assert len(seen.values) - len(before.values) <= 2 * 20


async def test_a_store_that_hangs_or_is_gone_delays_a_page_by_a_bounded_time(tmp_path: Path) -> None:
    with servers.valkey(tmp_path / "valkey") as valkey:
        shared = {"index": "redis", "redis_url": valkey.url, "eviction": "gdsf", "redis_timeout": 60.0}
        async with metered("redis", tmp_path / "node", **shared) as (node, page):
            one = made(1)
            await put(node, one)
            up = await page()
            assert up.value("kvquilt_node_index_up") == up.value("kvquilt_node_objects") == 1
            valkey.process.pause()
            try:
                begun = time.monotonic()
                down = [await page() for _ in range(3)]
                took = time.monotonic() - begun
                # Three pages, each of which waits once, and much room for a busy machine.
                assert took < 3 * ANSWER_SECONDS + 3 * COLLECT_SECONDS
                for seen in down:
                    assert seen.value("kvquilt_node_index_up") == 0
                    assert seen.value("kvquilt_node_puts_total", outcome="stored") == 1
                    assert ("kvquilt_node_objects", ()) not in seen.values, "nothing old is told as if it were new"
                assert await node.client.serving(deadline=DEADLINE)
            finally:
                valkey.process.resume()
            await until(page, lambda seen: seen.value("kvquilt_node_index_up"))
            valkey.process.kill()
            with pytest.raises(grpc.aio.AioRpcError):
                await node.put_raw(put_requests(tensor_header(), raw_bytes(CHUNK)))
            gone = await page()
    assert gone.value("kvquilt_node_index_up") == 0
    assert gone.total("kvquilt_node_store_operations_total", tier="index", outcome="unavailable") > 0
    assert gone.value("kvquilt_calls_total", method="PutChunk", code="UNAVAILABLE") == 1
