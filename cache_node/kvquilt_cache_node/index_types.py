"""The vocabulary of indexes: what there is in a store, whose, how big and how used."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

from kvquilt_cache_node.types import Namespaces, NamespaceUsage, Usage
from kvquilt_codec.catalog import ChunkMatch, FileInfo, FileMeta, Meta, ObjectInfo, ProfileInfo
from kvquilt_codec.traces import ChunkPlace, Trace


@dataclass(frozen=True, slots=True)
class Stored:
    """What an index has under a key.

    Attributes:
        at: when it was stored, in seconds since the epoch: no two storings of a key have the same time.
        size: bytes.
    """

    at: float
    size: int


@dataclass(frozen=True, slots=True)
class Lease:
    """What a reader asks for: that what it reads is not evicted meanwhile.

    Attributes:
        seconds: the most that a reader who is gone costs.
        most_bytes: of all objects that are being read; what is beyond has no lease.
    """

    seconds: float
    most_bytes: int


@dataclass(frozen=True, slots=True)
class Pin:
    """How objects are pinned.

    Attributes:
        most_bytes: that may be pinned in all.
        seconds: after which the pin ends by itself; `None`: never.
        expiring: objects expire as if they were not pinned; else their time to live ends with the pin at the earliest.
    """

    most_bytes: int
    seconds: float | None = None
    expiring: bool = False


class Index(Protocol):
    """What there is, whose, how big and how used; and what must go to make room.

    Several nodes may share one: each method is one atomic step for all of them. A key's bytes are written or deleted by
    one node at a time, which holds the key: from `reserve` to `commit` or `release`, and from the moment that `reserve`
    or `remove` dropped its row to `release`. Within one node the caller sees to it that nobody else works on the key.
    What a node held that died is free again after a while; `reserve` or `overdue` then gives another node its bytes to
    delete. A key whose row was dropped is on a list until `deleted` says that its bytes are gone, or `commit` that they
    were replaced: neither a crash nor a medium that cannot be reached loses it.

    An object whose time to live has ended is not there to any call, though its row and its bytes may be, until
    `reserve` or `overdue` drops it.

    Every method may raise `UnavailableError` (the index cannot be reached or written), `CapacityError` (its own medium
    is full) and `IntegrityError` (it holds what no index writes).
    """

    @property
    def expired(self) -> int:
        """Rows that `overdue` of this process has dropped because their time to live had ended."""

    async def add_documents(self, key: bytes, documents: Sequence[str], namespace: str = "") -> bool:
        """Let more documents hold an object; `False` if there is nothing of this key.

        Args:
            key: of the object.
            documents: of its namespace.
            namespace: whose the object is to be; empty: of a profile or another file.

        Raises:
            PermissionDeniedError: it is another's.
        """

    async def reserve(self, key: bytes, size: int, capacity: int, namespace: str = "") -> Sequence[bytes] | None:
        """Hold a key, set `size` bytes apart for its write, and drop the rows that are in the way.

        The caller deletes the bytes of the returned keys, writes, and calls `commit`, or `release` if that failed.
        To reserve what one holds already changes the size. What has expired goes first, then what the policy chooses;
        never what is pinned, and what is being read only if nothing else is left.

        Returns:
            Keys whose bytes must go before the write; `None` if there is something of this key already, or another node
            holds it.

        Args:
            key: of what is to be written.
            size: its bytes.
            capacity: byte cap of the store.
            namespace: whose it is; empty: a profile or another file.

        Raises:
            CapacityError: the room cannot be made: too large for the cap (reason `over_cap`) or for the namespace's own
                (`over_quota`), or others are writing; or other namespaces hold the rest, and no more than their floors
                (`over_share`). Nothing goes for it.
        """

    async def commit(self, key: bytes, size: int, meta: Meta, *, adopted: bool = False) -> None:
        """Enter what is written under a reservation: an object, a profile, a gate or audits. From now on it exists.

        Its time to live begins now; if it is `adopted`, because the index had lost it, it ends when its writer said.

        Raises:
            UnavailableError: this node holds the key no more (reason `lease_lost`).
        """

    async def release(self, keys: Sequence[bytes]) -> None:
        """Hold these keys no more, and give back what was reserved for them. What is to be deleted still is."""

    async def deleted(self, keys: Sequence[bytes]) -> None:
        """The bytes of these keys are gone: hold them no more. For keys that `may_delete` allowed."""

    async def overdue(self, limit: int) -> Sequence[bytes]:
        """Drop rows that have expired, and take over what is to be deleted and nobody deletes: about `limit` of each.

        The caller deletes the bytes of the returned keys and calls `deleted`. To be called every few seconds: it also
        keeps the time that times to live go by.
        """

    async def is_gone(self, key: bytes) -> bool:
        """Whether a key's bytes, if there are any, are to be deleted."""

    def abandon(self, key: bytes) -> None:
        """Hold a key no more, if it is held still, though bytes may be there without a row: others delete them."""

    async def may_delete(self, key: bytes) -> bool:
        """Whether nothing of this key exists, and this node holds it: then its bytes may be deleted."""

    async def use(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str] = (),
        namespaces: Namespaces = None,
        lease: Lease | None = None,
    ) -> list[bytes]:
        """Count a use of each object and let more documents of its namespace hold it; return the keys that exist.

        A use renews a time to live that is to be renewed. With a lease, the objects are being read until `end_read`.
        """

    def end_read(self, keys: Sequence[bytes]) -> None:
        """The reader of each of these has what it read. Other nodes learn it with the next `use` or `reserve`."""

    async def pin(self, keys: Sequence[bytes], documents: Sequence[str], pin: Pin, namespace: str = "") -> list[bytes]:
        """Keep objects from eviction, those that are named and those that these documents hold; those that exist.

        Keys and documents are as in `remove`.

        Raises:
            CapacityError: more bytes would be pinned than may be.
        """

    async def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> list[bytes]:
        """Pin objects no more; those that were pinned."""

    async def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = "", reason: str = "forgotten"
    ) -> tuple[dict[bytes, int], int]:
        """Drop rows by key, and by document those that no other document holds, for one of `DEPARTURES`.

        Keys are those of a namespace only; without one they are everybody's, and documents those of `public`.

        With the last object of a text that a document held go the text's variants that nobody holds: they were stored
        because of requests, which name no documents.

        Returns:
            The dropped keys with their sizes, and the number of objects that stay for other documents. The caller
            deletes the bytes and calls `deleted`.
        """

    async def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """Drop rows of a namespace, at most `FORGET_BATCH`, as `remove` does; none are left if none were dropped.

        They leave without a trace, and what left before is remembered no more; but of what was forgotten nobody knows
        whose it was.
        """

    async def stored(self, key: bytes) -> Stored | None:
        """When something was stored, and how big it is; `None` if there is nothing of this key."""

    async def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """Drop the row of a key whose bytes are gone, unless it has been stored again since `stored_at`."""

    async def profiles(self) -> list[ProfileInfo]:
        """All profiles, the most recently used first."""

    async def files(self, like: FileMeta) -> list[FileInfo]:
        """The gates, or the audits, with this description, the one that was stored last first."""

    async def find(self, keys: Sequence[bytes] | None = None, namespaces: Namespaces = None) -> list[ObjectInfo]:
        """What is known of the objects among `keys`, or of all objects, the most recently used first."""

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """Objects by chunk key, at most `limit` of each, the most recently used first."""

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """Chunks that have these fingerprints, at most `limit` of each, by chunk key and offset."""

    def pages(self, limit: int) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """All objects, about `limit` at a time, without holding up others; in no particular order.

        An object that is there from begin to end is given, and once; where the index is in Redis and grows or shrinks
        meanwhile it may be given again. What is stored or removed meanwhile may be given or not.
        """

    async def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """What there is of chunks, at most `limit` objects of each, and why objects of them left. Is no use of them.

        A departure is entered in the step that drops its row; what has expired has left, whether or not its row is
        there still. So many are remembered, the latest; of what was forgotten not whose it was. Without namespaces,
        those of all that have anything, and of `public`.
        """

    async def sizes(self) -> dict[bytes, int]:
        """All keys with the sizes of what is stored under them, in bytes."""

    async def usage(self, capacity: int) -> Usage:
        """How full the store is; reserved bytes count as used."""

    async def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """What each namespace has that has any object."""

    async def close(self) -> None:
        """Write what is pending and release what is held."""
