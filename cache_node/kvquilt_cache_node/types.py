"""The vocabulary of the cache node: what a store does. Read this file first.

A `Store` is what the node uses. It is made of `Blobs` (bytes by key) and an `Index` (who they are, how used, how big:
`index_types`); `IndexedStore` puts the two together and keeps the byte cap.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from kvquilt_codec.catalog import AuditsMeta, ChunkMatch, FileInfo, FileMeta, GateMeta, Meta, ObjectInfo, ProfileInfo
from kvquilt_codec.receipts import ForgetReceipt, PinReceipt
from kvquilt_codec.traces import ChunkPlace, Trace
from kvquilt_rpc.counters import CALL_COUNTERS

COUNTERS = (
    "puts_stored",
    "puts_present",
    "gets",
    "bytes_sent",
    "lookups",
    "objects_forgotten",
    "objects_damaged",
    "profiles_stored",
    "profiles_sent",
    "profiles_damaged",
    "gates_stored",
    "gates_sent",
    "gates_damaged",
    "audits_stored",
    "audits_sent",
    "audits_damaged",
    "memory_hits",
    "memory_bytes",
    "memory_bytes_read",
    "memory_bytes_written",
    "memory_evicted",
    "hot_hits",
    "hot_bytes",
    "hot_evicted",
    "hot_skipped",
    "hot_damaged",
    "cold_reads",
    "tier_hedges",
    "tier_hedges_won",
    "queue_entries",
    "queue_bytes",
    "queue_oldest_at",
    "queue_hits",
    "queue_bytes_read",
    "queue_bytes_written",
    "queue_full",
    "queue_flushed",
    "queue_retries",
    "queue_damaged",
    *CALL_COUNTERS,
)
"""Counters of a cache node."""

FILES_KEPT = {GateMeta: 8, AuditsMeta: 32}
"""Files of each kind that are kept of one model and codec profile."""

FORGET_BATCH = 4096
"""Objects of a namespace that are forgotten in one step."""
DEPARTURES_KEPT = 1 << 16
"""Objects that left and are remembered, by default."""

ByteRange = tuple[int, int]
"""Half-open: first byte, byte after the last."""


Namespaces = Sequence[str] | None
"""Whose objects a call is about; those of others are to it as if they did not exist. `None`: everybody's."""

Piece = bytes | bytearray
"""Bytes of a blob that nobody changes any more."""


@dataclass(frozen=True, slots=True)
class NamespaceUsage:
    """What a namespace has: objects, and their bytes."""

    objects: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Usage:
    """How full a store is: objects, and the bytes of objects, profiles, gates and audits.

    Attributes:
        pinned_bytes: of objects that are kept from eviction.
        pending_deletions: keys whose bytes are still to be deleted.
    """

    objects: int
    used_bytes: int
    capacity_bytes: int
    pinned_bytes: int = 0
    pending_deletions: int = 0


class Blobs(Protocol):
    """Bytes by 32-byte key, without a cap of their own.

    A key of another length is a BadRequestError. Where the medium is a server, any call may raise DeadlineError.
    After `close` every call raises UnavailableError.
    """

    @property
    def name(self) -> str:
        """Kind of the blobs, for status: "memory", "file", "redis", "object"."""

    @property
    def durable(self) -> bool:
        """Whether a returned `write` survives the end of the process."""

    async def write(self, key: bytes, data: bytes) -> None:
        """Write all of `data` or nothing; a reader never sees a part, or a mix of two writes.

        A write that raises may have been carried out nevertheless, if it is the answer that was lost.

        Raises:
            CapacityError: no room.
            UnavailableError: the medium failed.
        """

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """The bytes of each range; `None` reads everything, as one item.

        Raises:
            NotFoundError: no such key.
            IntegrityError: a range lies outside the blob; or the medium shows that it lost or changed bytes.
            UnavailableError: the medium failed.
        """

    def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """Everything, in order, in pieces of any size as they come from the medium; none of them may be changed.

        Nothing is checked but the size of each piece: verify what comes, and that it is all.

        Raises:
            NotFoundError: no such key; before anything came.
            IntegrityError: the medium shows that it lost or changed bytes.
            UnavailableError: the medium failed, or the blob was replaced after the first piece.
        """

    async def delete(self, key: bytes) -> None:
        """Delete; nothing happens if the key does not exist."""

    async def sizes(self) -> dict[bytes, int]:
        """All keys with their sizes in bytes, in the order that they were written in, as far as it is known.

        A blob that is known to be damaged is listed with a size of -1.
        """

    async def close(self) -> None:
        """Release what is held."""


class ObjectReading(Protocol):
    """What `Store.reading` gives; it may be used as long as that context lasts."""

    async def read(self, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Store.get`."""

    def pieces(self) -> AsyncGenerator[Piece, None]:
        """Everything, in order, in pieces of any size as they come; see `Blobs.pieces`."""


class Store(Protocol):
    """Objects, profiles, gates and audits by 32-byte key under a byte cap that is never exceeded.

    All of them count towards the cap; `stat`, `list` and `touch` with documents concern objects only.
    """

    @property
    def name(self) -> str:
        """Kind of the store, for status."""

    @property
    def durable(self) -> bool:
        """Whether an acknowledged put survives the end of the process."""

    async def put_if_absent(self, key: bytes, data: bytes, meta: Meta) -> bool:
        """Store something, making room by evicting what the store's policy chooses; `False` if it was there.

        An object that was there keeps its bytes and its time to live, and gains `meta.document_ids`. A profile that
        stored objects are coded with, and its gates and audits, are evicted after the last of them. Of those of one
        model and profile the `FILES_KEPT` that were stored last are kept.

        Raises:
            CapacityError: larger than the whole cap, for which nothing is evicted; or the disk is full in spite of
                what was evicted.
            PermissionDeniedError: what is there under this key is another namespace's.
        """

    async def get(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """The bytes of each range (`None`: everything, as one item). Is no use of it.

        Raises:
            NotFoundError: no such object.
            IntegrityError: a range lies outside the object.
        """

    def reading(self, key: bytes, namespaces: Namespaces = None) -> AbstractAsyncContextManager["ObjectReading"]:
        """One use of an object, in several reads: it is not evicted meanwhile, for as long as a lease lasts.

        Raises:
            NotFoundError: no such object of these namespaces; here, or by what is read, before any byte is given.
        """

    def readings(
        self, keys: Sequence[bytes], namespaces: Namespaces = None
    ) -> AbstractAsyncContextManager[Mapping[bytes, "ObjectReading"]]:
        """As `reading`, of several objects; those that do not exist are not among them."""

    async def touch(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespaces: Namespaces = None
    ) -> list[bytes]:
        """Count one use of each object and let more documents of its namespace hold it; return the keys that exist."""

    async def stat(self, keys: Sequence[bytes], namespaces: Namespaces = None) -> dict[bytes, ObjectInfo]:
        """The objects that exist among `keys`. Is no use of them."""

    async def find_variants(
        self,
        chunk_keys: Sequence[bytes],
        model_fingerprint: str,
        prefix_digest: bytes,
        limit: int,
        namespaces: Namespaces = None,
    ) -> dict[bytes, list[ObjectInfo]]:
        """Objects of these chunks, of this model and after this shared prefix, by chunk key.

        At most `limit` of each, the most recently used first; chunk keys without any are left out. Is no use of them.
        """

    async def find_chunks(
        self, fingerprints: Sequence[bytes], model_fingerprint: str, limit: int, namespaces: Namespaces = None
    ) -> list[ChunkMatch]:
        """Chunks of this model that have a fingerprint among these, at most `limit` of each fingerprint.

        In the order of the fingerprints. A chunk is known by its fingerprints as long as any object of it exists.
        """

    async def trace(self, places: Sequence[ChunkPlace], limit: int, namespaces: Namespaces = None) -> Trace:
        """What there is of chunks, at most `limit` objects of each, and why objects of them left. Is no use of them."""

    async def forget(
        self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "", reason: str = "forgotten"
    ) -> ForgetReceipt:
        """Delete objects by key, and by document those that no other document holds, for one of `DEPARTURES`.

        Keys are those of a namespace only; without one they are everybody's, and documents those of `public`. With the
        last object of a text that a document held go the text's objects that no document holds.
        """

    async def forget_namespace(self, namespace: str) -> ForgetReceipt:
        """Delete objects of a namespace, at most `FORGET_BATCH`; none are left if none were deleted."""

    async def pin(
        self,
        keys: Sequence[bytes],
        documents: Sequence[str],
        namespace: str = "",
        *,
        seconds: float | None = None,
        expiring: bool = False,
    ) -> PinReceipt:
        """Keep objects from eviction, by key and by document, those of a namespace as `forget` has it; see `Pin`.

        Raises:
            CapacityError: more bytes would be pinned than may be.
        """

    async def unpin(self, keys: Sequence[bytes], documents: Sequence[str], namespace: str = "") -> PinReceipt:
        """Pin objects no more."""

    async def profiles(self) -> list[ProfileInfo]:
        """All profiles, the most recently used first."""

    async def files(self, like: FileMeta) -> Sequence[FileInfo]:
        """The gates, or the audits, with this description, the one that was stored last first. Is no use of them."""

    async def list(self) -> list[ObjectInfo]:
        """All objects, the most recently used first."""

    def pages(self, limit: int) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """See `Index.pages`. Is no use of them."""

    async def usage(self) -> Usage:
        """How full the store is."""

    async def usage_by_namespace(self) -> dict[str, NamespaceUsage]:
        """What each namespace has that has any object."""

    async def close(self) -> None:
        """Write what is pending and release what is held."""
