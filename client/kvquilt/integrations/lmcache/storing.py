"""Objects of LMCache on cache nodes: look-ups, stores and loads. Needs no LMCache.

No call raises because of a node, an object or the bytes that came: what went wrong is counted, and is a miss.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from kvquilt.integrations.lmcache.coding import UNKNOWN_SALT, Coding, Item
from kvquilt.integrations.lmcache.identity import Layout, LMCacheKey
from kvquilt.integrations.lmcache.settings import AdapterSettings
from kvquilt.integrations.lmcache.tensors import Buffer
from kvquilt_codec.errors import (
    BadRequestError,
    DeadlineError,
    FingerprintMismatchError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
)
from kvquilt_rpc.callers import acting_in
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.types import COUNTERS as POOL_COUNTERS
from kvquilt_rpc.nodes.types import CacheNodes

log = logging.getLogger(__name__)

Result = TypeVar("Result")

COUNTERS = (
    "asked",
    "found",
    "lookups_failed",
    "loaded",
    "loaded_bytes",
    "missed",
    "loads_failed",
    "damaged",
    "stored",
    "stored_bytes",
    "stored_raw_bytes",
    "present",
    "refused",
    "refused_salts",
    "stores_failed",
    "dropped",
    "deleted",
    *POOL_COUNTERS,
)
"""Counters of an adapter, of objects where nothing else is said; docs/lmcache.md says what each means."""


@dataclass(frozen=True, slots=True)
class Held:
    """An object of LMCache: its key, and its bytes, which are read or written until the call has ended."""

    key: LMCacheKey
    layout: Layout
    buffer: Buffer


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of a store.

    Attributes:
        sizes: bytes that nodes keep of what was stored now, by its place in the call.
        complete: whether all of it is there, stored now or before.
    """

    sizes: Mapping[int, int]
    complete: bool


class NodeStorage:
    """Stores objects on nodes and loads them. Use it within one event loop.

    Args:
        nodes: open.
        coding: names and codes objects.
        settings: limits and deadlines.
        counters: that have the names of `COUNTERS`.
        threads: what encodes and decodes; the buffers of calls that were cancelled are used until it has ended.
    """

    def __init__(
        self, nodes: CacheNodes, coding: Coding, settings: AdapterSettings, counters: Counters, threads: Executor
    ) -> None:
        self._nodes = nodes
        self._coding = coding
        self._settings = settings
        self._counters = counters
        self._threads = threads
        self._slots = asyncio.Semaphore(settings.calls)
        self._told: set[str] = set()

    async def lookup(self, asked: Sequence[tuple[LMCacheKey, Layout, int]]) -> list[int]:
        """Which of these objects (with their layouts and sizes) nodes have, by their places."""
        self._counters.add("asked", len(asked))
        items = {at: item for at, one in enumerate(asked) if (item := self._named(*one)) is not None}
        try:
            there = await self._there(items.values())
        except KvquiltError as error:
            self._counters.add("lookups_failed", len(items))
            self._tell(error.reason, "a look-up failed: %s", error)
            return []
        found = [at for at, item in items.items() if item.identity.object_key in there]
        self._counters.add("found", len(found))
        return found

    async def store(self, objects: Sequence[Held]) -> Stored:
        """Store those that are not there yet."""
        items = {at: item for at, one in enumerate(objects) if (item := self._item(one)) is not None}
        try:
            there = await self._there(items.values())
        except KvquiltError as error:
            # Nothing is encoded for nodes that do not answer.
            self._counters.add("stores_failed", len(items))
            self._tell(error.reason, "objects were not stored: %s", error)
            return Stored({}, complete=False)
        present = [at for at, item in items.items() if item.identity.object_key in there]
        self._counters.add("present", len(present))
        missing = {at: item for at, item in items.items() if item.identity.object_key not in there}
        sizes = await self._all({at: self._store(item, objects[at].buffer) for at, item in missing.items()})
        stored = {at: size for at, size in sizes.items() if size is not None}
        return Stored(stored, complete=len(stored) + len(present) == len(objects))

    async def load(self, objects: Sequence[Held]) -> list[int]:
        """Fill buffers; the places of those that were filled. The others are as they were."""
        end = asyncio.get_running_loop().time() + self._settings.load_deadline
        items = {at: item for at, one in enumerate(objects) if (item := self._item(one)) is not None}
        loaded = await self._all({at: self._load(item, objects[at].buffer, end) for at, item in items.items()})
        return [at for at, done in loaded.items() if done]

    async def delete(self, keys: Mapping[LMCacheKey, Sequence[tuple[Layout, int]]]) -> list[LMCacheKey]:
        """Delete objects, each in all of the layouts; the keys of which something was deleted."""
        by_namespace: dict[str, dict[bytes, LMCacheKey]] = {}
        for key, layouts in keys.items():
            for layout, nbytes in layouts:
                item = self._named(key, layout, nbytes)
                if item is not None:
                    by_namespace.setdefault(item.identity.namespace, {})[item.identity.object_key] = key
        gone: dict[LMCacheKey, None] = {}
        for namespace, own in by_namespace.items():
            with acting_in(namespace):
                receipt = await self._nodes.forget(keys=list(own), deadline=self._settings.put_deadline)
            gone |= dict.fromkeys(own[key] for key in receipt.deleted if key in own)
        self._counters.add("deleted", len(gone))
        return list(gone)

    async def _there(self, items: Iterable[Item]) -> set[bytes]:
        """Keys of the objects that exist.

        Raises:
            KvquiltError: no node answered.
        """
        by_namespace: dict[str, list[ObjectRef]] = {}
        for item in items:
            by_namespace.setdefault(item.identity.namespace, []).append(item.ref)
        found: set[bytes] = set()
        for namespace, refs in by_namespace.items():
            with acting_in(namespace):
                found |= (await self._nodes.stat(refs, deadline=self._settings.lookup_deadline)).keys()
        return found

    async def _store(self, item: Item, buffer: Buffer) -> int | None:
        """Bytes that were stored; `None`: the object could not be."""
        async with self._slots:
            try:
                data, meta = await self._in_thread(self._coding.encode, item, buffer)
                key = item.identity.object_key
                new = await self._nodes.put(key, data, meta, deadline=self._settings.put_deadline)
            except KvquiltError as error:
                refused = isinstance(error, BadRequestError)
                self._counters.add("refused" if refused else "stores_failed")
                self._tell(error.reason, "an object was not stored: %s", error)
                return None
        self._counters.add("stored" if new else "present")
        if not new:
            return 0
        self._counters.add("stored_bytes", len(data))
        self._counters.add("stored_raw_bytes", buffer.nbytes)
        return len(data)

    async def _load(self, item: Item, buffer: Buffer, end: float) -> bool:
        try:
            async with asyncio.timeout_at(end):
                await self._slots.acquire()
        except TimeoutError:
            self._counters.add("loads_failed")
            return False
        try:
            data = await self._fetch(item, end)
            await self._in_thread(self._coding.decode, item, data, buffer)
        except NotFoundError:
            self._counters.add("missed")
            return False
        except (IntegrityError, FingerprintMismatchError) as error:
            self._counters.add("damaged")
            self._tell(error.reason, "an object was not what it should be: %s", error)
            await self._forget_damaged(item)
            return False
        except KvquiltError as error:
            self._counters.add("loads_failed")
            self._tell(error.reason, "a load failed: %s", error)
            return False
        finally:
            self._slots.release()
        self._counters.add("loaded")
        self._counters.add("loaded_bytes", len(data))
        return True

    async def _fetch(self, item: Item, end: float) -> bytes:
        left = max(0.0, end - asyncio.get_running_loop().time())
        try:
            async with asyncio.timeout_at(end):
                with acting_in(item.identity.namespace):
                    pieces = self._nodes.get(item.ref, item.identity.fingerprint, deadline=left)
                    came = [piece async for piece in pieces if isinstance(piece, bytes)]
        except TimeoutError:
            raise DeadlineError(f"expected an object within {self._settings.load_deadline:g} s; it is late") from None
        return b"".join(came)

    async def _forget_damaged(self, item: Item) -> None:
        """So that it can be stored again."""
        with suppress(KvquiltError), acting_in(item.identity.namespace):
            await self._nodes.forget(
                keys=[item.identity.object_key], damaged=True, deadline=self._settings.lookup_deadline
            )

    def _item(self, held: Held) -> Item | None:
        return self._named(held.key, held.layout, held.buffer.nbytes)

    def _named(self, key: LMCacheKey, layout: Layout, nbytes: int) -> Item | None:
        """How an object is stored; `None`: not at all."""
        try:
            return self._coding.item(key, layout, nbytes)
        except KvquiltError as error:
            self._counters.add("refused_salts" if error.reason == UNKNOWN_SALT else "refused")
            self._tell(error.reason, "an object is not stored or found: %s", error)
            return None

    def _tell(self, reason: str, text: str, error: KvquiltError) -> None:
        """Warn of the first failure of a kind; the counters tell of the others."""
        log.log(logging.DEBUG if reason in self._told else logging.WARNING, text, error)
        self._told.add(reason)

    async def _in_thread(self, work: Callable[..., Result], *arguments: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    @staticmethod
    async def _all(work: Mapping[int, Coroutine[Any, Any, Result]]) -> dict[int, Result]:
        """Results by place, when all have ended: buffers are not given back while one is at work on them.

        Raises:
            BaseException: what one of them raised.
        """
        results = await asyncio.gather(*work.values(), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return {at: result for at, result in zip(work, results, strict=True) if not isinstance(result, BaseException)}
