"""The index in Redis or Valkey: several nodes share one, and every change of it is one atomic script."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from kvquilt_cache_node.eviction.quotas import Quotas
from kvquilt_cache_node.index_types import Lease, Stored
from kvquilt_cache_node.store import redis_departures
from kvquilt_cache_node.store.limits import refuse_quota, refuse_share, refuse_size
from kvquilt_cache_node.store.owners import refuse_owner
from kvquilt_cache_node.store.redis_client import RedisClient
from kvquilt_cache_node.store.redis_format import FORMAT, check_opened
from kvquilt_cache_node.store.redis_holds import BATCH, batches
from kvquilt_cache_node.store.redis_records import Names
from kvquilt_cache_node.store.redis_rows import (
    arguments_of,
    file_from,
    files_of,
    infos_from,
    match_from,
    profile_from,
    scope_of,
)
from kvquilt_cache_node.store.redis_scripts import REPAIR, Argument
from kvquilt_cache_node.store.redis_stays import RedisStays
from kvquilt_cache_node.types import DEPARTURES_KEPT, FORGET_BATCH, Namespaces, NamespaceUsage, Usage
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, Meta, ObjectInfo, ProfileInfo
from kvquilt_codec.errors import IntegrityError, UnavailableError
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace, Trace

MAX_NAMESPACES = 4096
"""Namespaces whose use is told at once."""
_ANOTHERS = 2
"""What `add_documents.lua` answers about a key that is another namespace's."""


class RedisIndex(RedisStays):
    """See `Index`. The names of all its keys begin with `{PREFIX:index}:`, so they lie in one slot of a cluster.

    Use `RedisIndex.open`. Times are the server's.
    """

    @classmethod
    async def open(
        cls,
        client: RedisClient,
        prefix: str,
        policy: str,
        *,
        lease: float = 30.0,
        quotas: Quotas | None = None,
        departures: int = DEPARTURES_KEPT,
    ) -> "RedisIndex":
        """Open an index, or make an empty one.

        Args:
            client: connected; closed with the index, or if it cannot be opened.
            prefix: as of `RedisBlobs`.
            policy: what eviction goes by, "gdsf" or "lru"; all nodes of an index have the same.
            lease: seconds after which what a node had reserved is free again, if the node has died.
            quotas: of namespaces; all nodes of an index should have the same: each makes room by its own.
            departures: how many objects that left are remembered; that of the last node that opened the index.

        Raises:
            BadRequestError: a prefix that cannot be, the index goes by another policy, or the server would evict parts
                of the index by itself.
            IntegrityError: the index is of another format, or no index at all.
            UnavailableError, DeadlineError: the server cannot be reached.
        """
        try:
            Names(prefix)
            index = cls(client, prefix, lease=lease, quotas=quotas)
            answer = await index._scripts.run("open", FORMAT, policy, departures)
            check_opened(index._scripts.prefix, policy, *(part.decode(errors="replace") for part in answer))
        except BaseException:
            await client.close()
            raise
        return index

    @staticmethod
    async def erase(client: RedisClient, prefix: str) -> int:
        """Delete an index, whatever is under its keys; no node may have it open. Returns the number of keys.

        Raises:
            BadRequestError: a prefix that cannot be.
            UnavailableError, DeadlineError: the server cannot be reached.
        """
        Names(prefix)
        erased = 0
        async for names in client.scan(f"{{{prefix}:index}}:*", BATCH):
            for name in names:
                erased += await client.call("UNLINK", name)
        return erased

    async def close(self) -> None:
        """See `Index.close`. What is reserved still is free again when its lease ends."""
        await self._holds.close()
        await self._scripts.close()

    async def add_documents(self, key: bytes, documents: Sequence[str], namespace: str = "") -> bool:
        """See `Index.add_documents`."""
        there = await self._scripts.run("add_documents", key, namespace, *documents)
        if there == _ANOTHERS:
            refuse_owner(key, namespace)
        return bool(there)

    async def reserve(self, key: bytes, size: int, capacity: int, namespace: str = "") -> list[bytes] | None:
        """See `Index.reserve`."""
        victims: list[bytes] = []
        while True:
            mine = (self._holds.owner, size, capacity, self._holds.lease, BATCH, namespace, self._quotas)
            status, *answer = await self._scripts.run("reserve", key, *mine, *self._have_read())
            if status in {b"stored", b"busy"}:
                return None
            if status == b"over":
                refuse_size(size, int(answer[0]), capacity)
            if status == b"quota":
                refuse_quota(size, int(answer[0]), namespace, int(answer[1]))
            if status == b"drift":
                raise IntegrityError(f"expected an index whose sums agree with its rows; got another one: {REPAIR}")
            if status == b"share":
                self._holds.took(deleting=answer)
                refuse_share(size, namespace)
            victims += answer
            self._holds.took(deleting=answer)
            if status == b"ok":
                self._holds.took(writing=[key])
                return victims

    async def commit(self, key: bytes, size: int, meta: Meta, *, adopted: bool = False) -> None:
        """See `Index.commit`."""
        arguments = arguments_of(key, meta, size, adopted=adopted)
        status = await self._scripts.run("commit", key, self._holds.owner, *arguments)
        if status == b"lost":
            raise UnavailableError(
                f"expected to hold object {key.hex()[:16]}... until it was written; the lease of "
                f"{self._holds.lease:g} s ran out: raise it, or find out what paused this process",
                reason="lease_lost",
            )
        self._holds.gave_back([key])

    def abandon(self, key: bytes) -> None:
        """See `Index.abandon`. Once the lease has run out, `reserve` of any node gives the bytes to be deleted."""
        self._holds.gave_back([key])

    async def may_delete(self, key: bytes) -> bool:
        """See `Index.may_delete`."""
        return bool(await self._scripts.run("may_delete", self._holds.owner, self._holds.lease, key))

    async def use(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str] = (),
        namespaces: Namespaces = None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        """See `Index.use`. Tells also which readers have what they read: no further round trip."""
        found: list[bytes] = []
        leased = (0.0, 0) if lease is None else (lease.seconds, lease.most_bytes)
        for batch in batches(keys):
            have_read = self._have_read()
            told: list[Argument] = [len(have_read), *have_read, len(documents), *documents]
            there = await self._scripts.run("use", scope_of(namespaces), *leased, *told, *batch)
            found += [key for key, exists in zip(batch, there, strict=True) if exists]
        return found

    async def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = "", reason: str = "forgotten"
    ) -> tuple[dict[bytes, int], int]:
        """See `Index.remove`."""
        dropped: dict[bytes, int] = {}
        shared: set[bytes] = set()
        for at in range(len(documents)):
            # The one to empty first; the others that an object may be held by as well are those near it.
            names = [documents[at], *documents[at + 1 : at + BATCH]]
            more = True
            while more:
                mine = (self._holds.owner, self._holds.lease, BATCH)
                mine_too = (*mine, namespace or PUBLIC, reason)
                gone, others, more = await self._scripts.run("forget_documents", *mine_too, *names)
                dropped |= self._dropped(gone)
                shared |= set(others)
        scope = scope_of((namespace,) if namespace else None)
        for batch in batches(keys):
            holder = (self._holds.owner, self._holds.lease)
            dropped |= self._dropped(await self._scripts.run("drop", *holder, scope, reason, *batch))
        return dropped, len(shared - dropped.keys())

    async def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """See `Index.remove_namespace`."""
        dropped: dict[bytes, int] = {}
        while len(dropped) < FORGET_BATCH:
            mine = (self._holds.owner, self._holds.lease, BATCH)
            gone = self._dropped(await self._scripts.run("drop_namespace", *mine, namespace))
            if not gone:
                await redis_departures.forget(self._scripts, namespace)
                break
            dropped |= gone
        return dropped

    async def stored(self, key: bytes) -> Stored | None:
        """See `Index.stored`."""
        answer = await self._scripts.run("stored", key)
        try:
            return None if answer is None else Stored(float(answer[0]), int(answer[1]))
        except (ValueError, TypeError, IndexError) as error:
            raise IntegrityError(f"expected a row of the index of {key.hex()[:16]}...; got {error}: {REPAIR}") from None

    async def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """See `Index.remove_lost`."""
        return bool(await self._scripts.run("drop_lost", self._holds.owner, key, f"{stored_at:.17g}"))

    async def profiles(self) -> list[ProfileInfo]:
        """See `Index.profiles`."""
        found = [(*profile_from(answer), answer[-1]) for answer in await self._scripts.run("profiles")]
        return [info for info, _, _ in sorted(found, key=lambda row: (-row[1], row[2]))]

    async def files(self, like: FileMeta) -> list[FileInfo]:
        """See `Index.files`."""
        answers = await self._scripts.run("files", files_of(like), like.profile_digest)
        return [info for info in map(file_from, answers) if info.model_fingerprint == like.model_fingerprint]

    async def find(self, keys: Sequence[bytes] | None = None, namespaces: Namespaces = None) -> list[ObjectInfo]:
        """See `Index.find`. One round trip for each 128 keys."""
        if keys is None:
            everything = await self.find(list(await self._scripts.sizes()), namespaces)
            return sorted(everything, key=lambda info: (-info.last_used, info.key))
        found: list[ObjectInfo] = []
        for batch in batches(list(dict.fromkeys(keys))):
            found += infos_from(await self._scripts.run("find", scope_of(namespaces), *batch))
        return found

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """See `Index.find_variants`."""
        found: dict[bytes, list[ObjectInfo]] = {}
        for batch in batches(list(dict.fromkeys(chunk_keys))):
            of = (model_fingerprint, prefix_digest, limit, scope_of(namespaces))
            for chunk, rows in zip(batch, await self._scripts.run("find_variants", *of, *batch), strict=True):
                if infos := infos_from(rows):
                    found[chunk] = infos
        return found

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """See `Index.find_chunks`."""
        found: list[ChunkMatch] = []
        of = (model_fingerprint, limit, scope_of(namespaces))
        for number, batch in enumerate(batches(fingerprints)):
            answers = await self._scripts.run("find_chunks", *of, *batch)
            for place, matches in enumerate(answers):
                found += [match_from(number * BATCH + place, match) for match in matches]
        return found

    async def pages(self, limit: int) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """See `Index.pages`. Two round trips for each 128 objects."""
        async for part in self._scripts.parts(min(limit, BATCH)):
            yield await self.find(list(part))

    async def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """See `Index.trace`."""
        return await redis_departures.trace(self._scripts, places, limit, namespaces)

    async def sizes(self) -> dict[bytes, int]:
        """See `Index.sizes`."""
        return await self._scripts.sizes()

    async def usage(self, capacity: int) -> Usage:
        """See `Index.usage`."""
        answer = await self._scripts.run("usage")
        if len(answer) != 5:
            raise IntegrityError(f"expected sums of the index; something else is there: {REPAIR}")
        objects, used, reserved, pinned, pending = answer
        return Usage(objects, used + reserved, capacity, pinned, pending)

    async def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """See `Index.usage_by_namespace`."""
        answer = await self._scripts.run("usage_by_namespace", MAX_NAMESPACES)
        return {name.decode("utf-8", "replace"): NamespaceUsage(objects, used) for name, objects, used in answer}

    def _dropped(self, answer: Sequence[Any]) -> dict[bytes, int]:
        dropped = dict(zip(answer[::2], answer[1::2], strict=True))
        self._holds.took(deleting=dropped)
        return dropped
