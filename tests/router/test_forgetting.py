"""A namespace is forgotten: what began before stores nothing in it any more."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kvquilt_codec.errors import UnavailableError
from kvquilt_router.forgetting import Forgetting


async def request(forgetting: Forgetting, put: Callable[[], Awaitable[None]], *, after: asyncio.Event) -> str:
    """A request of namespace `a` that stores something once `after` is set; returns how it went."""
    forgetting.begin()
    await after.wait()
    try:
        with forgetting.storing("a"):
            await put()
    except UnavailableError as error:
        return error.reason
    return "stored"


async def nothing() -> None:
    """A put that takes no time."""


async def test_what_began_before_is_not_stored_and_what_is_being_stored_is_waited_for() -> None:
    forgetting = Forgetting()
    now, late, written = asyncio.Event(), asyncio.Event(), asyncio.Event()
    now.set()

    async def slow() -> None:
        await written.wait()

    running = asyncio.create_task(request(forgetting, slow, after=now))
    early = asyncio.create_task(request(forgetting, nothing, after=late))
    await asyncio.sleep(0)
    forgotten = asyncio.create_task(forgetting.forget("a"))
    await asyncio.sleep(0)
    new = asyncio.create_task(request(forgetting, nothing, after=now))
    assert await new == "stored"
    assert not forgotten.done(), "a put still runs"
    written.set()
    await forgotten
    assert running.done()
    late.set()
    assert (await running, await early) == ("stored", "namespace_forgotten")


async def test_work_that_a_request_left_belongs_to_when_the_request_began() -> None:
    forgetting = Forgetting()
    begun = forgetting.begin()
    await forgetting.forget("a")
    assert forgetting.is_over("a", begun)
    assert not forgetting.is_over("b", begun)
    assert not forgetting.is_over("a", forgetting.begin())
    forgetting.resume(begun)
    with pytest.raises(UnavailableError), forgetting.storing("a"):
        pass
    with forgetting.storing("b"):
        pass
