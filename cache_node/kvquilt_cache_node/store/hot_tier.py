"""A hot tier: copies of blobs on a faster medium, under a byte cap of its own. It may fail, lie and be late."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from kvquilt_cache_node.eviction import Entry, EvictionPolicy
from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store import envelope
from kvquilt_cache_node.store.hot import Count
from kvquilt_cache_node.types import Blobs, ByteRange
from kvquilt_codec.errors import DeadlineError, IntegrityError, KvquiltError, NotFoundError, UnavailableError
from kvquilt_rpc.nodes.breaker import CircuitBreaker
from kvquilt_rpc.nodes.budget import full_jitter

log = logging.getLogger(__name__)

_THRESHOLD, _FIRST_WAIT, _LAST_WAIT = 5, 0.5, 10.0
"""Failures in a row that open the breaker, and how long it stays open at first and at most, in seconds."""

_WRITE_SECONDS = 30.0


class HotTier:
    """Copies by key. Nothing that it holds is needed, and no error of its medium gets out of it. For one event loop.

    Args:
        medium: where the copies are, and nothing else; closed with the tier.
        capacity: bytes on the medium, envelopes and what could not be deleted yet included; never exceeded.
        policy: chooses what goes; holds nothing yet.
        count: told of `hot_bytes`, `hot_damaged`, `hot_evicted`, `hot_skipped`.
        timeout: seconds that a read or a delete may take; a later one counts as a failure.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        medium: Blobs,
        capacity: int,
        policy: EvictionPolicy,
        count: Count,
        *,
        timeout: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._medium = medium
        self._capacity = capacity
        self._policy = policy
        self._count = count
        self._timeout = timeout
        self._breaker = CircuitBreaker(clock, threshold=_THRESHOLD, first_wait=_FIRST_WAIT, last_wait=_LAST_WAIT)
        self._sizes: dict[bytes, int] = {}
        self._doomed: dict[bytes, int] = {}
        self._held = 0
        self._keeping = asyncio.Lock()
        self._deleting: set[bytes] = set()
        self._cleaning: asyncio.Task[None] | None = None
        self._dropped: set[bytes] = set()
        self._opening: asyncio.Task[None] | None = None
        self._ready = False
        self._closed = False

    async def open(self, stored: Callable[[], Awaitable[dict[bytes, int]]]) -> None:
        """Take over what an earlier process left, but for what is not stored any more, or beyond the cap.

        A medium that cannot be reached is tried again and again; the tier holds nothing before.

        Args:
            stored: gives the sizes of all that is stored, by key.

        Raises:
            UnavailableError: the medium refuses this node (reason `store_refused`).
        """
        try:
            await self._take_over(stored)
        except (UnavailableError, DeadlineError) as error:
            if error.reason == "store_refused":
                raise
            log.warning("the hot tier is not there yet: %s", error)
            self._opening = asyncio.create_task(self._open_later(stored))

    async def _open_later(self, stored: Callable[[], Awaitable[dict[bytes, int]]]) -> None:
        failures = 0
        while not self._ready:
            await asyncio.sleep(full_jitter(min(failures, 16), _FIRST_WAIT, _LAST_WAIT, random.random))
            try:
                await self._take_over(stored)
            except KvquiltError as error:
                failures += 1
                log.info("the hot tier is not there yet: %s", error)

    async def _take_over(self, stored: Callable[[], Awaitable[dict[bytes, int]]]) -> None:
        left = await self._medium.sizes()
        self._dropped.clear()
        there = await stored()
        for key, size in left.items():
            self._grow(max(size, 0))
            if key not in self._dropped and key in there and size == envelope.size_in(there[key]):
                self._sizes[key] = size
                self._policy.insert(key, Entry(max(size, 1), uses=1))
            else:
                self._doomed[key] = max(size, 0)
        self._ready = True
        self._make_room(0)
        await self._clean()

    def __contains__(self, key: object) -> bool:
        """Whether a copy is held, and may be asked for now."""
        return key in self._sizes and self._breaker.ready

    def may_keep(self, size: int) -> bool:
        """Whether a copy of a blob of `size` bytes could be held."""
        return self._ready and envelope.size_in(size) <= self._capacity and self._breaker.ready

    def use(self, key: bytes) -> None:
        """A copy was used."""
        if key in self._sizes:
            self._policy.use(key)

    async def read(self, key: bytes, ranges: Sequence[ByteRange], stored: Stored) -> list[bytes] | None:
        """The bytes of ranges of what was stored, within its size; `None` if the tier cannot give them."""
        if not self._breaker.allow():
            self._count("hot_skipped", 1)
            return None
        try:
            async with asyncio.timeout(self._timeout):
                pieces = await self._medium.read(key, envelope.asked(ranges, stored.size))
        except NotFoundError:
            self._breaker.succeeded()
            self._forget(key)
            return None
        except IntegrityError:
            self._breaker.succeeded()
            pieces = []
        except (KvquiltError, TimeoutError) as error:
            self._failed(error)
            self._count("hot_skipped", 1)
            return None
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        else:
            self._breaker.succeeded()
        try:
            return envelope.opened(pieces or [b""], ranges, stored)
        except IntegrityError as error:
            self._count("hot_damaged", int(error.reason == "checksum"))
            await self.drop(key)
            return None

    def was_late(self) -> None:
        """A read was given up because the tier below was faster."""
        self._failed(TimeoutError("slower than the tier below"))

    async def keep(self, key: bytes, data: bytes, stored_at: float, wanted: Callable[[], bool]) -> None:
        """Hold a copy, if there can be room for it.

        Args:
            key: of the blob.
            data: the whole blob, sound.
            stored_at: see `Stored.at`.
            wanted: whether the blob is what is stored, still.
        """
        size = envelope.size_in(len(data))
        async with self._keeping:
            if key in self._sizes or key in self._doomed or size > self._capacity or not self._breaker.ready:
                return
            self._make_room(size)
            await self._clean()
            if self._held + size > self._capacity or not wanted() or not self._breaker.allow():
                return
            self._grow(size)
            self._doomed[key] = size  # until it is there for sure
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await self._medium.write(key, await asyncio.to_thread(envelope.sealed, data, stored_at))
            except (KvquiltError, TimeoutError) as error:
                self._failed(error)
            except asyncio.CancelledError:
                self._breaker.abandoned()
                raise
            else:
                self._breaker.succeeded()
                if wanted():
                    self._sizes[key] = self._doomed.pop(key)
                    self._policy.insert(key, Entry(size, uses=1))
                    return
            await self._clean()

    async def drop(self, key: bytes) -> None:
        """Hold a copy no more: it is not read from now on, and deleted as soon as the medium lets it be."""
        if not self._ready:
            self._dropped.add(key)
        if key in self._sizes:
            self._policy.remove(key)
            self._doomed[key] = self._sizes.pop(key)
            await self._clean(key)

    async def close(self) -> None:
        """Leave the copies to the next process."""
        self._closed = True
        for task in (self._opening, self._cleaning):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._medium.close()
        async with self._keeping:
            self._count("hot_bytes", -self._held)
            self._held = 0

    def _make_room(self, size: int) -> None:
        """Let copies go until there is room for one more of `size` bytes; they are to be deleted."""
        leaving = sum(self._doomed.values())
        while self._sizes and self._held - leaving + size > self._capacity:
            key = cast(bytes, self._policy.evict())
            self._doomed[key] = self._sizes.pop(key)
            leaving += self._doomed[key]
            self._count("hot_evicted", 1)

    async def _clean(self, *keys: bytes) -> None:
        """Delete what is to go, and see to it later where that fails."""
        for key in keys or list(self._doomed):
            if key in self._doomed and not await self._delete(key):
                if not self._closed and (self._cleaning is None or self._cleaning.done()):
                    self._cleaning = asyncio.create_task(self._clean_later())
                return

    async def _clean_later(self) -> None:
        failures = 0
        while self._doomed:
            await asyncio.sleep(full_jitter(min(failures, 16), _FIRST_WAIT, _LAST_WAIT, random.random))
            async with self._keeping:
                for key in list(self._doomed):
                    if not await self._delete(key):
                        failures += 1
                        break
                    failures = 0

    async def _delete(self, key: bytes) -> bool:
        """Delete a copy that is to go; only one at a time does: the key may be held again right after."""
        if key in self._deleting:
            return True
        if not self._breaker.allow():
            return False
        self._deleting.add(key)
        try:
            async with asyncio.timeout(self._timeout):
                await self._medium.delete(key)
        except (KvquiltError, TimeoutError) as error:
            self._failed(error)
            return False
        except asyncio.CancelledError:
            self._breaker.abandoned()
            raise
        finally:
            self._deleting.discard(key)
        self._breaker.succeeded()
        self._grow(-self._doomed.pop(key, 0))
        return True

    def _forget(self, key: bytes) -> None:
        if key in self._sizes:
            self._policy.remove(key)
            self._grow(-self._sizes.pop(key))

    def _grow(self, size: int) -> None:
        self._held += size
        self._count("hot_bytes", size)

    def _failed(self, error: Exception) -> None:
        if self._breaker.failed():
            log.warning("the hot tier is left alone for a while: %s", error or "it is late")
