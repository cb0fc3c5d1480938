"""A hot tier in front of other blobs: what is used again is copied there, and read from there while it is faster."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store.answering import answered, listening
from kvquilt_cache_node.store.changes import Changes
from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.hedging import Hedge
from kvquilt_cache_node.store.hot import Count, Ranges, Recent
from kvquilt_cache_node.store.hot_tier import HotTier
from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.store.tiered import Check, LookUp
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.types import Blobs, ByteRange
from kvquilt_codec.errors import IntegrityError, KvquiltError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.tiers import Tier

log = logging.getLogger(__name__)

_WINDOW = 1 << 16
"""Blobs of which it is known that they were read before."""

_COPIES = 4
"""Copies under way at once, each of which holds a blob in memory; further ones are left to the next use."""


_CLOSE_SECONDS = 1.0
"""Time that copies get to end when all is closed."""


class _Copy:
    """A blob that is on its way into the hot tier."""

    overtaken = False


class HotFirstBlobs(InOnePiece):
    """See `Blobs`. Blobs are copied into the hot tier when they are used a second time, if they are sound as a whole.

    Each read is answered by one tier, whole. A copy is used only while the index has the blob, stored at the same time
    as the copy says of itself, and only as far as its checksums hold. A hot tier that fails, or does not answer in
    time, is passed over; one that is late is raced with the tier below (`Hedge`).

    Args:
        lower: where all blobs are; closed with these.
        hot: closed likewise.
        look_up: tells when what is under a key was stored, and its size.
        check: refuses what is damaged.
        count: told of `hot_hits`, `cold_reads`, `tier_hedges`, `tier_hedges_won`.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        lower: Blobs,
        hot: HotTier,
        look_up: LookUp,
        check: Check,
        count: Count,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lower = lower
        self._hot = hot
        self._look_up = look_up
        self._check = check
        self._count = count
        self._hedge = Hedge(count, clock)
        self._recent = Recent(_WINDOW, whole_is_use=True)
        self._changes = Changes()
        self._copies: dict[bytes, _Copy] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._open = Open(lower.name)

    @property
    def name(self) -> str:
        """See `Blobs.name`."""
        return self._lower.name

    @property
    def durable(self) -> bool:
        """See `Blobs.durable`."""
        return self._lower.durable

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`. What is written is not copied. A caller that goes away does not end it."""
        data = bytes(data)
        await self._change(key, lambda: self._lower.write(key, data))

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`. A copy that the hot tier cannot delete now is not read, and deleted later."""
        await self._change(key, lambda: self._lower.delete(key))

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        self._open.check()
        return await self._lower.sizes()

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        self._open.check()
        check_digest(key, "key")
        asked = None if ranges is None else tuple(ranges)
        again = self._recent.seen(key, asked)
        if key not in self._changes and (key in self._hot or again):
            stored = await self._stored(key)
            if stored is not None and key in self._hot:
                if (found := await self._from_hot(key, asked, stored)) is not None:
                    return found
            elif stored is not None and again and (found := await self._copied(key, asked, stored)) is not None:
                return found
        return await self._from_lower(key, asked)

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._open.close()
        await self._lower.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._hot.close()
        await self._changes.ended()

    async def _stored(self, key: bytes) -> Stored | None:
        try:
            return await self._look_up(key)
        except KvquiltError as error:
            log.info("the hot tier is passed over: %s", error)
            return None

    async def _change(self, key: bytes, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._open.check()
        check_digest(key, "key")
        if (copy := self._copies.pop(key, None)) is not None:
            copy.overtaken = True

        async def both() -> None:
            await self._hot.drop(key)
            await work()

        await self._changes.run(key, both)

    async def _from_hot(self, key: bytes, ranges: Ranges, stored: Stored) -> list[bytes] | None:
        """What the hot tier has, or the tier below where that is faster; `None` if it has to be asked yet."""
        chosen = [(0, stored.size)] if ranges is None else ranges
        check_ranges(chosen, stored.size)
        with listening() as both:  # the loser may have read all of it too
            raced = await self._hedge.race(
                lambda: self._hot.read(key, chosen, stored), lambda: self._from_lower(key, ranges), self._hot.was_late
            )
        if raced.first:
            self._count("hot_hits", 1)
            self._hot.use(key)
            answered(Tier.HOT)
        elif raced.found is not None:
            answered(both.tier)
        return raced.found

    async def _from_lower(self, key: bytes, ranges: Ranges) -> list[bytes]:
        self._count("cold_reads", 1)
        return await self._lower.read(key, ranges)

    async def _copied(self, key: bytes, ranges: Ranges, stored: Stored) -> list[bytes] | None:
        """Read all of a blob below and have it copied; `None` if it is not to be."""
        if key in self._copies or len(self._copies) >= _COPIES or not self._hot.may_keep(stored.size):
            return None
        copy = self._copies[key] = _Copy()
        try:
            (data,) = await self._from_lower(key, None)
        except BaseException:
            self._ended(key, copy)
            raise
        task = asyncio.create_task(self._copy(key, data, stored, copy))
        self._tasks.add(task)
        task.add_done_callback(partial(self._copy_ended, key, copy))
        if ranges is None:
            return [data]
        check_ranges(ranges, len(data))
        return [data[begin:end] for begin, end in ranges]

    async def _copy(self, key: bytes, data: bytes, stored: Stored, copy: _Copy) -> None:
        if len(data) != stored.size:
            return
        try:
            await self._check(key, data)
        except IntegrityError as error:
            log.warning("a damaged blob is not copied: %s", error, extra={"key": key.hex()})
            return
        await self._hot.keep(key, data, stored.at, lambda: not copy.overtaken and not self._open.closed)

    def _copy_ended(self, key: bytes, copy: _Copy, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._ended(key, copy)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a blob cannot be copied to the hot tier", exc_info=error)

    def _ended(self, key: bytes, copy: _Copy) -> None:
        if self._copies.get(key) is copy:
            del self._copies[key]
