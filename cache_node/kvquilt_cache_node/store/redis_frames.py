"""Which frames a span of a blob lies in, and a few of them on their way at once."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import TypeVar

from kvquilt_cache_node.types import ByteRange

Given = TypeVar("Given")
Got = TypeVar("Got")

_AT_ONCE = 2
"""Frames of one call that travel at once."""


def parts_of(span: ByteRange, frame_bytes: int) -> list[tuple[int, int, int]]:
    """The frames that a span lies in: number, and the half-open range within the frame."""
    begin, end = span
    return [
        (number, max(begin - number * frame_bytes, 0), min(end - number * frame_bytes, frame_bytes))
        for number in range(begin // frame_bytes, -(-end // frame_bytes))
    ]


async def in_order(given: Iterable[Given], call: Callable[[Given], Awaitable[Got]]) -> AsyncGenerator[Got, None]:
    """What a call gives for each, in their order, while the next are under way; the first error ends the others."""
    waiting = iter(given)
    running: deque[asyncio.Future[Got]] = deque()

    def fill() -> None:
        while len(running) < _AT_ONCE and (one := next(waiting, None)) is not None:
            running.append(asyncio.ensure_future(call(one)))

    try:
        fill()
        while running:
            found = await running[0]
            running.popleft()
            fill()
            yield found
    finally:
        for left in running:
            left.cancel()
        await asyncio.gather(*running, return_exceptions=True)
