"""What an index should know, in the simplest way that it can be said."""

from dataclasses import dataclass, field

from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import ChunkMatch, GateMeta, Meta, ObjectMeta
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace


@dataclass
class Entry:
    """Something that is stored."""

    size: int
    meta: Meta
    documents: set[str]
    uses: int = 0

    @property
    def namespace(self) -> str:
        """Whose it is; empty: nobody's."""
        return self.meta.namespace if isinstance(self.meta, ObjectMeta) else ""

    def form(self, key: bytes) -> str:
        """Of a profile and its gates: the profile's digest, which is the name of the form that needs them."""
        return self.meta.profile_digest if isinstance(self.meta, GateMeta) else key.hex()


@dataclass
class Model:
    """`entries` is in order of use, the least recently used first; `stored` in order of storing."""

    capacity: int
    entries: dict[bytes, Entry] = field(default_factory=dict)
    stored: list[bytes] = field(default_factory=list)
    reserved: dict[bytes, tuple[int, Meta]] = field(default_factory=dict)
    departed: dict[ChunkPlace, tuple[str, str]] = field(default_factory=dict)

    def seen(self, key: bytes, namespaces: Namespaces) -> bool:
        """Whether something is of these namespaces."""
        return namespaces is None or self.entries[key].namespace in namespaces

    @property
    def used(self) -> int:
        """Bytes of what is stored."""
        return sum(entry.size for entry in self.entries.values())

    def fits(self, size: int) -> bool:
        """Whether a reservation is possible at all."""
        return sum(size for size, _ in self.reserved.values()) + size <= self.capacity

    def reserve(self, key: bytes, size: int, meta: Meta) -> set[bytes]:
        """The victims: whatever was used longest ago, and is no profile or gate that an object needs."""
        gone: set[bytes] = set()
        while self.used + sum(other for other, _ in self.reserved.values()) + size > self.capacity:
            coded_with = {meta.form.name for meta in self.objects().values()}
            victim = next(
                key
                for key, entry in self.entries.items()
                if isinstance(entry.meta, ObjectMeta) or entry.form(key) not in coded_with
            )
            self.depart(victim, "evicted")
            gone.add(victim)
        self.reserved[key] = (size, meta)
        return gone

    def depart(self, key: bytes, reason: str) -> int:
        """An entry leaves; its size."""
        entry = self.entries.pop(key)
        if isinstance(entry.meta, ObjectMeta):
            whose = "" if reason == "forgotten" else entry.namespace
            self.departed[ChunkPlace(entry.meta.chunk_key, entry.meta.prefix_digest)] = reason, whose
        return entry.size

    def commit(self, key: bytes) -> None:
        """A reservation becomes an entry."""
        size, meta = self.reserved.pop(key)
        self.entries[key] = Entry(size, meta, set(meta.document_ids) if isinstance(meta, ObjectMeta) else set())
        self.stored = [*(other for other in self.stored if other != key), key]

    def hold(self, key: bytes, documents: tuple[str, ...]) -> bool:
        """More documents of an object."""
        entry = self.entries.get(key)
        if entry is not None and isinstance(entry.meta, ObjectMeta):
            entry.documents |= set(documents)
        return entry is not None

    def use(self, keys: list[bytes], documents: tuple[str, ...], namespaces: Namespaces) -> list[bytes]:
        """Those that exist."""
        found = [key for key in keys if key in self.entries and self.seen(key, namespaces)]
        found = [key for key in found if self.hold(key, documents)]
        for key in found:
            entry = self.entries[key] = self.entries.pop(key)
            entry.uses += 1
        return found

    def remove(
        self, keys: list[bytes], documents: tuple[str, ...], namespace: str, reason: str
    ) -> tuple[dict[bytes, int], int]:
        """What is dropped, and how many stay for others."""
        owner = namespace or PUBLIC
        keys = [key for key in keys if key in self.entries and self.seen(key, (namespace,) if namespace else None)]
        own = {key: entry for key, entry in self.entries.items() if entry.namespace == owner}
        touched = {key: entry for key, entry in own.items() if entry.documents & set(documents)}
        for entry in touched.values():
            entry.documents -= set(documents)
        shared = {key for key, entry in touched.items() if entry.documents and key not in keys}
        gone = {key for key in self.entries if key in keys}
        for key in touched.keys() - shared:
            same = [
                other for other in self.objects() if self.objects()[other].chunk_key == self.objects()[key].chunk_key
            ]
            gone |= {key} if not touched[key].documents else set()
            if not any(self.entries[other].documents for other in same):
                gone |= set(same)
        return {key: self.depart(key, reason) for key in gone}, len(shared - gone)

    def objects(self) -> dict[bytes, ObjectMeta]:
        """The objects, the least recently used first."""
        return {key: entry.meta for key, entry in self.entries.items() if isinstance(entry.meta, ObjectMeta)}

    def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """All of a namespace, while it is no more than goes at once."""
        gone = [key for key, entry in self.entries.items() if entry.namespace == namespace]
        self.departed = {place: left for place, left in self.departed.items() if left[1] != namespace}
        return {key: self.entries.pop(key).size for key in gone}

    def departures(self, namespaces: Namespaces) -> dict[ChunkPlace, str]:
        """Why objects left, as far as these namespaces may know."""
        return {
            place: reason
            for place, (reason, whose) in self.departed.items()
            if namespaces is None or whose in ("", *namespaces)
        }

    def variants(self, chunk: bytes, prefix: bytes, model: str, namespaces: Namespaces) -> list[bytes]:
        """Keys of a chunk's objects, the most recently used first."""
        wanted = (chunk, prefix, model)
        seen = {key: meta for key, meta in self.objects().items() if self.seen(key, namespaces)}
        found = [k for k, m in seen.items() if (m.chunk_key, m.prefix_digest, m.model_fingerprint) == wanted]
        return found[::-1]

    def chunks(self, fingerprints: list[bytes], model: str, limit: int, namespaces: Namespaces) -> list[ChunkMatch]:
        """Chunks by fingerprints."""
        found: list[ChunkMatch] = []
        for number, fingerprint in enumerate(fingerprints):
            matches = {
                (meta.chunk_key, offset, meta.tokens)
                for key, meta in self.objects().items()
                if meta.model_fingerprint == model and self.seen(key, namespaces)
                for offset, digest in unpack(meta.fingerprints, meta.tokens)
                if digest == fingerprint
            }
            found += [ChunkMatch(number, *match) for match in sorted(matches)[:limit]]
        return found
