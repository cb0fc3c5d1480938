"""A node that drains or ends is in a hurry: its write queue waits for no back-off."""

import asyncio
from pathlib import Path

import pytest

from kvquilt_cache_node.store import flushing
from tests.cache_node.queued import QueuedNode
from tests.cache_node.stacks import until
from tests.contracts.store_objects import data_of, key_of

ONE, TWO = key_of(1), key_of(2)


@pytest.fixture
async def waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> QueuedNode:
    """A node whose queue would wait for an hour before it tries a store again that failed."""
    monkeypatch.setattr(flushing, "full_jitter", lambda *_: 3600.0)
    node = QueuedNode(tmp_path)
    node.start()
    node.cold.down = True
    return node


async def test_a_drain_tries_the_store_at_once_and_then_again_and_again(waiting: QueuedNode) -> None:
    async with asyncio.timeout(60):
        await waiting.blobs.write(ONE, data_of(1, 10))
        await until(lambda: waiting.count("queue_retries") == 1)
        waiting.hurry.begin()
        await until(lambda: waiting.count("queue_retries") >= 3)
        waiting.cold.down = False
        await waiting.worked_off()
        waiting.hurry.end()
        waiting.cold.down = True
        await waiting.blobs.write(TWO, data_of(2, 10))
        tried = waiting.count("queue_retries")
        await until(lambda: waiting.count("queue_retries") > tried)
        waiting.cold.down = False
        waiting.hurry.begin()
        await waiting.worked_off()
        assert await waiting.cold.has() == {ONE: data_of(1, 10), TWO: data_of(2, 10)}
        await waiting.blobs.close()


async def test_an_end_waits_for_no_back_off(waiting: QueuedNode) -> None:
    async with asyncio.timeout(60):
        await waiting.blobs.close()
        waiting.start(drain=50.0)
        await waiting.blobs.write(ONE, data_of(1, 10))
        await until(lambda: waiting.count("queue_retries") == 1)
        waiting.cold.down = False
        await waiting.blobs.close()
        assert await waiting.cold.has() == {ONE: data_of(1, 10)}
