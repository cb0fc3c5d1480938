"""Brings blobs and index in line: what neither a crash nor a loss of either leaves behind is the other's."""

import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store.rows import namespace_of
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.catalog import Meta, ObjectMeta
from kvquilt_codec.errors import CapacityError, IntegrityError, NotFoundError
from kvquilt_codec.identity import DIGEST_BYTES
from kvquilt_codec.lifetime import LifetimePolicy

log = logging.getLogger(__name__)

_BATCH = 128

Describe = Callable[[bytes, bytes], Awaitable[Meta]]
"""From key and bytes; raises `IntegrityError` for what is damaged or not the one of this key."""

Step = Literal["rows", "blobs"]
Progress = Callable[[Step, int, int], None]
"""Told of each key: which of the two is looked through, how many are done, how many there are."""


@dataclass
class Repaired:
    """What a repair did, or would do.

    Attributes:
        blobs: there were at the start.
        rows: there were at the start.
        dropped: rows whose bytes are gone, or of another size.
        adopted: blobs without a row that are sound, entered into the index.
        deleted: blobs without a row that are damaged, or larger than the whole cap.
        evicted: what had to make room, among it what had been adopted before.
        finished: keys that were forgotten, evicted or expired before, and whose bytes could be deleted only now.
        left: blobs that another node is working on, or that have no room while others write.
    """

    blobs: int = 0
    rows: int = 0
    dropped: int = 0
    adopted: int = 0
    deleted: int = 0
    evicted: int = 0
    left: int = 0
    finished: int = 0


class Repair:
    """One pass over a store. It may be interrupted at any point and begun anew.

    Other nodes may go on meanwhile: what they write or delete is held by them, and left alone.

    Args:
        blobs: of the store.
        index: of the store.
        capacity: byte cap of the store; what is over it goes.
        describe: reads a description from an object's bytes.
        lifetimes: default and cap of times to live, for what is adopted.
        dry_run: change nothing, only count.
    """

    def __init__(
        self,
        blobs: Blobs,
        index: Index,
        capacity: int,
        describe: Describe,
        lifetimes: LifetimePolicy | None = None,
        *,
        dry_run: bool = False,
    ) -> None:
        self._blobs = blobs
        self._index = index
        self._capacity = capacity
        self._describe = describe
        self._lifetimes = lifetimes or LifetimePolicy()
        self._dry_run = dry_run
        self.done = Repaired()

    async def run(self, progress: Progress = lambda *_: None) -> Repaired:
        """Do it.

        Raises:
            UnavailableError, DeadlineError: blobs or index cannot be reached; what was done is done.
        """
        if not self._dry_run:
            await self._finish()
        # In this order: a put enters its row last, so what is listed as a blob only may have a row by now, never the
        # other way round; both are looked at once more before anything is done.
        blobs = await self._blobs.sizes()
        rows = await self._index.sizes()
        self.done.blobs, self.done.rows = len(blobs), len(rows)
        lost = [key for key, size in rows.items() if blobs.get(key) != size]
        for number, key in enumerate(lost):
            progress("rows", number, len(lost))
            await self._check_row(key, rows[key])
        orphans = [key for key in blobs if key not in rows or key in lost]
        for number, key in enumerate(orphans):
            progress("blobs", number, len(orphans))
            await self._check_orphan(key)
        if not self._dry_run:
            nobody = secrets.token_bytes(DIGEST_BYTES)
            await self._reserve(nobody, 0)
            await self._index.release([nobody])
        return self.done

    async def _finish(self) -> None:
        """Delete what should be gone: nothing of it may be adopted."""
        done: set[bytes] = set()
        while fresh := [key for key in await self._index.overdue(_BATCH) if key not in done]:
            for key in fresh:
                done.add(key)
                if await self._index.may_delete(key):
                    await self._delete(key)
                    self.done.finished += 1

    async def _check_row(self, key: bytes, size: int) -> None:
        stored = await self._index.stored(key)
        if stored is None:
            return
        try:
            (data,) = await self._blobs.read(key)
            if len(data) == size:
                return
        except (NotFoundError, IntegrityError):
            pass
        self.done.dropped += 1
        if not self._dry_run and await self._index.remove_lost(key, stored.at):
            log.warning("dropped the row of an object whose bytes are gone", extra={"key": key.hex()})

    async def _check_orphan(self, key: bytes) -> None:
        if self._dry_run:
            if await self._index.is_gone(key):
                self.done.finished += 1
            elif await self._index.stored(key) is None:
                await self._count(key)
            return
        if not await self._reserve(key, 0):
            self.done.left += await self._index.stored(key) is None
            return
        try:
            if await self._index.is_gone(key):  # a node dropped it since the beginning, and died
                await self._delete(key)
                self.done.finished += 1
            else:
                await self._adopt(key)
        except NotFoundError:
            pass
        except IntegrityError as error:
            log.warning("deleted an object without a row: %s", error, extra={"key": key.hex()})
            await self._delete(key)
            self.done.deleted += 1
        except CapacityError as error:
            if error.reason not in ("over_cap", "over_quota", "over_share"):
                raise
            self.done.left += 1  # for now, others' unfinished writes fill the cap, or floors of others
        finally:
            await self._index.release([key])

    async def _delete(self, key: bytes) -> None:
        await self._blobs.delete(key)
        await self._index.deleted([key])

    async def _adopt(self, key: bytes) -> None:
        (data,) = await self._blobs.read(key)
        meta = await self._describe(key, data)
        now = time.time()
        if isinstance(meta, ObjectMeta):
            meta = replace(meta, lifetime=self._lifetimes.of(meta.lifetime, now))
            if meta.lifetime is not None and meta.lifetime.until <= now:
                late = now - meta.lifetime.until
                raise IntegrityError(f"expected an object whose TTL has not ended; it did {late:.0f} s ago")
        if len(data) > self._capacity:
            raise IntegrityError(f"expected at most {self._capacity} bytes, the cap; got an object of {len(data)}")
        if await self._reserve(key, len(data), namespace_of(meta)):
            await self._index.commit(key, len(data), meta, adopted=True)
            self.done.adopted += 1
            log.warning("adopted an object without a row", extra={"key": key.hex()})

    async def _count(self, key: bytes) -> None:
        try:
            (data,) = await self._blobs.read(key)
            await self._describe(key, data)
            self.done.adopted += 1
        except IntegrityError:
            self.done.deleted += 1
        except NotFoundError:
            pass

    async def _reserve(self, key: bytes, size: int, namespace: str = "") -> bool:
        """Hold a key, or find it stored; whoever has to go is deleted."""
        victims = await self._index.reserve(key, size, self._capacity, namespace)
        if victims is None:
            return False
        for victim in victims:
            if victim != key and await self._index.may_delete(victim):
                await self._delete(victim)
                self.done.evicted += 1
        return True
