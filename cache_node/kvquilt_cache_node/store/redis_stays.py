"""How long objects stay, in the index in Redis: what is overdue, who reads, what is pinned."""

from collections.abc import Sequence
from typing import Any

from kvquilt_cache_node.eviction.quotas import Quotas
from kvquilt_cache_node.index_types import Pin
from kvquilt_cache_node.store.limits import refuse_pins
from kvquilt_cache_node.store.redis_client import RedisClient
from kvquilt_cache_node.store.redis_holds import BATCH, Holds, batches
from kvquilt_cache_node.store.redis_rows import quotas_of, scope_of
from kvquilt_cache_node.store.redis_scripts import Scripts
from kvquilt_codec.identity import PUBLIC

MOST_ENDED = 1024
"""Readers who have what they read, of whom the others are not told yet; more need not be known."""


class RedisStays:
    """This part of the index, and what all parts of it stand on."""

    def __init__(self, client: RedisClient, prefix: str, *, lease: float, quotas: Quotas | None = None) -> None:
        self._quotas = quotas_of(quotas)
        self._scripts = Scripts(client, f"{{{prefix}:index}}")
        self._holds = Holds(self._scripts, lease)
        self._ended: list[bytes] = []
        self.expired = 0

    async def release(self, keys: Sequence[bytes]) -> None:
        """See `Index.release`."""
        await self._release(keys, deleted=False)

    async def deleted(self, keys: Sequence[bytes]) -> None:
        """See `Index.deleted`."""
        await self._release(keys, deleted=True)

    async def _release(self, keys: Sequence[bytes], *, deleted: bool) -> None:
        self._holds.gave_back(keys)
        for batch in batches(keys):
            await self._scripts.run("release", self._holds.owner, int(deleted), *batch)

    async def overdue(self, limit: int) -> list[bytes]:
        """See `Index.overdue`."""
        mine = (self._holds.owner, self._holds.lease, min(limit, BATCH))
        answer: list[Any] = await self._scripts.run("overdue", *mine)
        self.expired += answer[0]
        found: list[bytes] = answer[1:]
        self._holds.took(deleting=found)
        return found

    async def is_gone(self, key: bytes) -> bool:
        """See `Index.is_gone`."""
        return bool(await self._scripts.run("is_gone", key))

    def end_read(self, keys: Sequence[bytes]) -> None:
        """See `Index.end_read`. What is not told in time runs out by itself."""
        self._ended += keys
        del self._ended[:-MOST_ENDED]

    def _have_read(self) -> list[bytes]:
        ended, self._ended = self._ended, []
        return ended

    async def pin(self, keys: Sequence[bytes], documents: Sequence[str], pin: Pin, namespace: str = "") -> list[bytes]:
        """See `Index.pin`. If the last batch of many does not fit, what the earlier ones pinned is unpinned."""
        scope = scope_of((namespace,) if namespace else None)
        how = (pin.most_bytes, "" if pin.seconds is None else pin.seconds, int(not pin.expiring), scope)
        found: list[bytes] = []
        fresh: list[bytes] = []
        for batch in batches(await self._held_by(keys, documents, namespace)):
            status, *answer = await self._scripts.run("pin", *how, *batch)
            if status == b"over":
                await self.unpin(fresh, ())
                refuse_pins(int(answer[0]), pin.most_bytes)
            found += answer[0]
            fresh += answer[1]
        return found

    async def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> list[bytes]:
        """See `Index.unpin`."""
        scope = scope_of((namespace,) if namespace else None)
        unpinned: list[bytes] = []
        for batch in batches(await self._held_by(keys, documents, namespace)):
            unpinned += await self._scripts.run("unpin", scope, *batch)
        return unpinned

    async def _held_by(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str) -> list[bytes]:
        named = list(keys)
        for document in documents:
            named += await self._scripts.run("held_by", namespace or PUBLIC, document)
        return list(dict.fromkeys(named))
