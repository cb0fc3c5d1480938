"""A memory tier in front of other blobs: what is used again is kept in memory, and served from it while it exists."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store.answering import Heard, answered, listening
from kvquilt_cache_node.store.changes import Changes
from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.hot import Count, HotBlob, HotBlobs, Ranges, Recent
from kvquilt_cache_node.store.ranges import check_ranges
from kvquilt_cache_node.types import Blobs, ByteRange, Piece
from kvquilt_codec.errors import IntegrityError, KvquiltError
from kvquilt_codec.identity import check_digest
from kvquilt_codec.tiers import Tier

log = logging.getLogger(__name__)

_WINDOW = 1 << 14
"""Blobs of which it is known that they were read before."""

LookUp = Callable[[bytes], Awaitable[Stored | None]]
"""As `Index.stored`."""
Check = Callable[[bytes, bytes], Awaitable[object]]
"""From key and bytes; raises `IntegrityError` for what is damaged, or another error if that cannot be told now."""


class _Flight:
    """A read below that others may wait for; its result is `None` where each had better read by itself.

    Attributes:
        heard: which tier answers it: where what it finds comes from, whoever gets it.
    """

    def __init__(self) -> None:
        self.task: asyncio.Task[list[bytes] | None]
        self.heard = Heard()
        self.overtaken = False


class TieredBlobs:
    """See `Blobs`. A blob comes into memory when it is used a second time (`Recent`), if it is sound as a whole.

    The read that begins a second use loads the whole blob; any other read of what is not in memory reads no more than
    it was asked for. Reads of the same at the same time become one below.

    What is in memory is served only while the index has it, stored at the same time: what another node forgot is not
    served, nor what could not be deleted below. What this node writes or deletes leaves memory before anything is done
    below, and what is read below until that is done does not get there.

    Args:
        lower: where the blobs are; closed with the tier.
        hot: what is in memory: nothing yet.
        look_up: tells when what is under a key was stored, and its size.
        check: refuses what is damaged.
        count: told of `memory_hits` and `memory_bytes_read`.
    """

    def __init__(self, lower: Blobs, hot: HotBlobs, look_up: LookUp, check: Check, count: Count) -> None:
        self._lower = lower
        self._hot = hot
        self._look_up = look_up
        self._check = check
        self._count = count
        self._recent = Recent(_WINDOW)
        self._flights: dict[bytes, dict[Ranges, _Flight]] = {}
        self._changes = Changes()
        self._tasks: set[asyncio.Task[Any]] = set()
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
        """See `Blobs.write`. What is written is not kept in memory. A caller that goes away does not end it."""
        await self._change(key, lambda: self._lower.write(key, data))

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`. A caller that goes away does not end it."""
        await self._change(key, lambda: self._lower.delete(key))

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        self._open.check()
        return await self._lower.sizes()

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`. Raises what the index raises, too."""
        self._open.check()
        check_digest(key, "key")
        asked = None if ranges is None else tuple(ranges)
        again = self._recent.seen(key, asked)
        while (blob := self._hot.get(key)) is not None:
            stored = await self._look_up(key)
            if stored is not None and stored.at == blob.stored_at:
                self._count("memory_hits", 1)
                if again and self._hot.get(key) is blob:
                    self._hot.use(key)
                cut = _cut(blob.data, asked)
                self._count("memory_bytes_read", sum(map(len, cut)))
                answered(Tier.MEMORY)
                return cut
            self._hot.drop(key)
        if key not in self._changes:
            flights = self._flights.get(key, {})
            if (whole := flights.get(None)) is not None:
                if (found := await self._joined(key, whole)) is not None:
                    return _cut(found[0], asked)
            elif (same := flights.get(asked)) is not None:
                if (found := await self._joined(key, same)) is not None:
                    return found
            elif not again:
                return await self._fly(key, asked, load=False) or []
            elif (found := await self._fly(key, None, load=True)) is not None:
                return _cut(found[0], asked)
        return await self._lower.read(key, asked)

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. What is not in memory, nor on its way there, comes as it does from below."""
        self._open.check()
        check_digest(key, "key")
        if self._hot.get(key) is not None or key in self._flights or self._recent.again(key, None):
            (data,) = await self.read(key)
            yield data
            return
        self._recent.seen(key, None)
        async with aclosing(self._lower.pieces(key)) as pieces:
            async for piece in pieces:
                yield piece

    async def close(self) -> None:
        """See `Blobs.close`. Waits for what is under way, which the closed blobs below refuse."""
        self._open.close()
        await self._lower.close()
        await self._changes.ended()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._hot.clear()

    async def _change(self, key: bytes, work: Callable[[], Awaitable[None]]) -> None:
        self._open.check()
        check_digest(key, "key")
        self._hot.drop(key)
        for flight in self._flights.pop(key, {}).values():
            flight.overtaken = True
        await self._changes.run(key, work)

    async def _fly(self, key: bytes, ranges: Ranges, *, load: bool) -> list[bytes] | None:
        """Begin a read below that others may join, and wait for it."""
        flight = _Flight()
        work = self._load(key, flight) if load else self._lower.read(key, ranges)
        with listening() as flight.heard:
            flight.task = asyncio.create_task(work)
        self._flights.setdefault(key, {})[ranges] = flight
        self._tasks.add(flight.task)
        flight.task.add_done_callback(partial(self._landed, key, ranges, flight))
        found = await asyncio.shield(flight.task)
        if found is not None:
            answered(flight.heard.tier)
        return found

    def _landed(self, key: bytes, ranges: Ranges, flight: _Flight, task: asyncio.Future[Any]) -> None:
        self._ended(task)
        flights = self._flights.get(key, {})
        if flights.get(ranges) is flight:
            del flights[ranges]
            if not flights:
                del self._flights[key]

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, though all that waited for it may be gone

    async def _joined(self, key: bytes, flight: _Flight) -> list[bytes] | None:
        """What a read found that began before this one, if it is true still."""
        try:
            found = await asyncio.shield(flight.task)
        except KvquiltError:
            return None  # what was not there then may be there now
        if found is None or await self._look_up(key) is None:
            return None
        answered(flight.heard.tier)
        return found

    async def _load(self, key: bytes, flight: _Flight) -> list[bytes] | None:
        """Read a whole blob into memory; `None` if it cannot be kept there or is damaged."""
        stored = await self._look_up(key)
        if stored is None or not self._hot.reserve(stored.size):
            return None
        reserved = stored.size
        try:
            (data,) = await self._lower.read(key)
            if len(data) != reserved or not await self._sound(key, data):
                return None
            if not flight.overtaken:
                reserved = 0
                self._hot.keep(key, HotBlob(data, stored.at))
            return [data]
        finally:
            self._hot.release(reserved)

    async def _sound(self, key: bytes, data: bytes) -> bool:
        """Whether a blob is what it should be: what a medium got wrong once must not be served again and again."""
        try:
            await self._check(key, data)
        except IntegrityError as error:
            log.warning("a damaged blob is not kept in memory: %s", error, extra={"key": key.hex()})
            return False
        return True


def _cut(data: bytes, ranges: Ranges) -> list[bytes]:
    if ranges is None:
        return [data]
    check_ranges(ranges, len(data))
    return [data[begin:end] for begin, end in ranges]
