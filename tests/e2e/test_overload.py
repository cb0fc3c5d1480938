"""More requests than a router takes: what it cannot do is refused at once, and whoever asks computes instead."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest

from kvquilt import AsyncClient, Document
from kvquilt.errors import CapacityError, DeadlineError
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_router.engine.model import prepare
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from tests.proxy import valve
from tests.router.families import SUPPORTED, tiny
from tests.rpc.nodes.cluster import until

BLENDS, WAITING, MANY = 2, 3, 30
DOCUMENT = np.random.default_rng(3).integers(3, 500, 300).tolist()
SEGMENTS = [DOCUMENT, [5, 6, 7]]


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


@asynccontextmanager
async def served(model, path, opened: asyncio.Event, **settings) -> AsyncIterator[AsyncClient]:
    """A router whose node answers only while `opened` is set, and a client."""
    node = NodeSettings(port=0, path=path, fsync=False, drain_seconds=0)
    async with running_node(node) as address, valve(address, opened) as through:
        chosen = {"max_blends": BLENDS, "max_waiting": WAITING, "stat_deadline": 60, "fetch_deadline": 60} | settings
        router = RouterSettings(
            port=0, nodes=through, profile="", ungated=True, health_seconds=60, background=False, **chosen
        )
        async with running_router(router, model) as target, AsyncClient(target) as client:
            yield client


async def test_requests_beyond_what_runs_and_waits_are_refused_at_once_and_the_others_are_served(model, tmp_path):
    opened = asyncio.Event()
    opened.set()
    async with served(model, tmp_path, opened) as client:
        async for done in client.prefetch([Document("one", DOCUMENT)], level="lossless"):
            assert not done.failed
        opened.clear()
        asked = [asyncio.create_task(client.blend(SEGMENTS, level="lossless", policy="none")) for _ in range(MANY)]

        async def refused() -> bool:
            return sum(task.done() for task in asked) >= MANY - BLENDS - WAITING

        await until(refused)
        errors = [task.exception() for task in asked if task.done()]
        assert {(type(error), error.reason) for error in errors} == {(CapacityError, "overloaded")}
        assert len(errors) == MANY - BLENDS - WAITING
        assert len(await client.models()) == 1, "the router still says what it serves"
        opened.set()
        kept = await asyncio.gather(*(task for task in asked if not task.done()))
        assert all(kv.report.hit for kv in kept)
        assert (await client.blend(SEGMENTS, level="lossless", policy="none")).report.hit
        counters = (await client.status()).counters
        assert counters["calls_shed"] == MANY - BLENDS - WAITING
        assert counters["blends"] == BLENDS + WAITING + 1


async def test_callers_that_would_not_wait_for_their_turn_are_refused_before_it(model, tmp_path):
    opened = asyncio.Event()
    opened.set()
    async with served(model, tmp_path, opened, max_blends=1, max_waiting=MANY) as client:
        opened.clear()
        slow = asyncio.create_task(client.blend(SEGMENTS, deadline=60))
        await asyncio.sleep(1)  # that a blend takes a second is what the router learns here
        opened.set()
        await slow
        opened.clear()
        first = asyncio.create_task(client.blend(SEGMENTS, deadline=60))
        await until(lambda: running(client))
        with pytest.raises(CapacityError) as caught:
            await client.blend(SEGMENTS, deadline=1.5)
        assert caught.value.reason == "overloaded"
        patient = asyncio.create_task(client.blend(SEGMENTS, deadline=60))
        opened.set()
        await asyncio.gather(first, patient)


async def running(client: AsyncClient) -> bool:
    """Whether a blend has taken the only place: then a caller with little time is refused before its time is over."""
    with pytest.raises((CapacityError, DeadlineError)) as caught:
        await client.blend(SEGMENTS, deadline=0.5)
    return isinstance(caught.value, CapacityError)
