"""The loop of synchronous callers leaves nothing behind."""

import asyncio

from kvquilt.loop_thread import LoopThread


def test_what_still_runs_at_the_end_is_cancelled() -> None:
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("cancelled")

    async def begin() -> asyncio.Task[None]:
        task = asyncio.create_task(background())
        await asyncio.sleep(0)
        return task

    loop = LoopThread("test")
    task = loop.run(begin())
    loop.close()
    loop.close()
    assert loop.closed
    assert task.cancelled()
    assert ended == ["cancelled"]
