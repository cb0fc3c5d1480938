"""Requests go first, and what waits for a pause is not kept out for good."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from kvquilt_router.engine_thread import EngineThread
from tests.rpc.nodes.cluster import until

CALL = 0.002


@asynccontextmanager
async def flooded(thread: EngineThread) -> AsyncIterator[list[None]]:
    """Requests without a pause; gives the list of those that are done."""
    done: list[None] = []

    async def ask() -> None:
        while True:
            done.append(await thread.run(time.sleep, CALL))

    tasks = [asyncio.create_task(ask()) for _ in range(3)]
    yield done
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    thread.close()


async def more(done: list[None], count: int) -> None:
    end = len(done) + count

    async def enough() -> bool:
        return len(done) >= end

    await until(enough)


@pytest.mark.parametrize("share", [0.05, 0.15])
async def test_storing_gets_its_share_and_no_more_while_requests_leave_no_pause(share: float) -> None:
    thread = EngineThread(share)
    stored: list[None] = []

    async def store() -> None:
        while True:
            stored.append(await thread.run_idle(time.sleep, CALL))

    async with flooded(thread) as done:
        tasks = [asyncio.create_task(store()) for _ in range(3)]
        await more(done, 100)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Calls last as long as the system lets them sleep: a third and three times of the share are taken for it.
        owed = share / (1 - share) * len(done)
        assert owed / 3 <= len(stored) <= 3 * owed


async def test_what_may_wait_for_ever_does_and_so_does_storing_without_a_share() -> None:
    thread = EngineThread()
    async with flooded(thread) as done:
        waiting = [
            asyncio.create_task(thread.run_idle(time.sleep, 0)),
            asyncio.create_task(thread.run_spare(time.sleep, 0)),
        ]
        await more(done, 50)
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_in_a_pause_all_that_waits_runs_and_owes_nothing() -> None:
    thread = EngineThread(0.5)
    request = asyncio.create_task(thread.run(time.sleep, CALL))
    await asyncio.sleep(0)
    order: list[str] = []
    idle = [asyncio.create_task(thread.run_idle(order.append, str(number))) for number in range(3)]
    spare = asyncio.create_task(thread.run_spare(order.append, "spare"))
    await asyncio.gather(request, *idle, spare)
    assert sorted(order) == ["0", "1", "2", "spare"]
    thread.close()
