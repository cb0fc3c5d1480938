"""What an index should know, in the simplest way that it can be said."""

from dataclasses import dataclass, field

from kvquilt_cache_node.types import Namespaces
from kvquilt_codec.catalog import ChunkMatch, Meta, ObjectMeta
from kvquilt_codec.errors import CapacityError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace
from tests.contracts.index_entry import NEVER, Entry, Moment


@dataclass
class Model:
    """Rows, of which those that have expired are there to no caller.

    Attributes:
        moves: whether what is spared because it is being read counts as used then.
        entries: in order of use, the least recently used first.
        order: those that may be evicted, the first to go first.
        stored: in order of storing.
        gone: keys whose bytes are to be deleted.
        read: readers by key.
        now: units that have passed.
    """

    capacity: int
    moves: bool
    entries: dict[bytes, Entry] = field(default_factory=dict)
    order: list[bytes] = field(default_factory=list)
    gone: set[bytes] = field(default_factory=set)
    read: dict[bytes, int] = field(default_factory=dict)
    now: int = 0
    _set: int = 0
    stored: list[bytes] = field(default_factory=list)
    reserved: dict[bytes, tuple[int, Meta]] = field(default_factory=dict)
    departed: dict[ChunkPlace, tuple[tuple[int, ...], str, str]] = field(default_factory=dict)

    def seen(self, key: bytes, namespaces: Namespaces) -> bool:
        """Whether something is of these namespaces."""
        return namespaces is None or self.entries[key].namespace in namespaces

    @property
    def used(self) -> int:
        """Bytes of what is stored."""
        return sum(entry.size for entry in self.entries.values())

    @property
    def pinned(self) -> int:
        """Bytes of what is pinned."""
        return sum(entry.size for entry in self.entries.values() if entry.pinned)

    def after(self, units: int) -> Moment:
        """The moment that many units from now."""
        self._set += 1
        return (self.now + units, self._set)

    def has_passed(self, moment: Moment) -> bool:
        """Whether it is over."""
        return moment[0] <= self.now

    def is_there(self, key: bytes) -> bool:
        """Whether anybody is told of it."""
        return key in self.entries and not self.has_passed(self.entries[key].expires)

    def fits(self, size: int) -> bool:
        """Whether a reservation is possible at all."""
        self.end_pins()
        return sum(size for size, _ in self.reserved.values()) + size + self.pinned <= self.capacity

    def reserve(self, key: bytes, size: int, meta: Meta) -> set[bytes]:
        """The victims: the row of this key that has expired; others that have; whatever was used longest ago, and is no
        profile or gate that an object needs, not pinned, and if possible not being read."""
        gone = {key} if key in self.entries else set()
        self.drop(gone, "expired")
        while self.used + sum(other for other, _ in self.reserved.values()) + size > self.capacity:
            victim, reason = self._victim()
            self.drop({victim}, reason)
            gone.add(victim)
        if self.moves:
            spared = [other for other in self.order if other in self._spared]
            self.order = [other for other in self.order if other not in self._spared] + spared
        self._spared.clear()
        self.reserved[key] = (size, meta)
        return gone

    _spared: set[bytes] = field(default_factory=set)

    def _victim(self) -> tuple[bytes, str]:
        expired = [(entry.expires, key) for key, entry in self.entries.items() if self.has_passed(entry.expires)]
        if expired:
            return min(expired)[1], "expired"
        coded_with = {meta.form.name for meta in self.objects().values()}
        for key, entry in self.entries.items():
            if isinstance(entry.meta, ObjectMeta):
                break
            if entry.form(key) not in coded_with:
                return key, "evicted"
        for key in self.order:
            if key not in self.read:
                return key, "evicted"
            self._spared.add(key)
        if self.order:
            return self.order[0], "evicted"
        return next(key for key, entry in self.entries.items() if not isinstance(entry.meta, ObjectMeta)), "evicted"

    def drop(self, keys: set[bytes], reason: str) -> dict[bytes, int]:
        """These rows leave, without a trace if no reason is given; what they said of sizes."""
        sizes = {}
        for key in keys & self.entries.keys():
            entry = self.entries.pop(key)
            sizes[key] = entry.size
            if reason and isinstance(entry.meta, ObjectMeta):
                place = ChunkPlace(entry.meta.chunk_key, entry.meta.prefix_digest)
                moment = self._left(entry, reason)
                if reason != "expired" or moment >= self.departed.get(place, ((0,),))[0]:
                    self.departed[place] = moment, reason, entry.namespace
        self.order = [key for key in self.order if key not in keys]
        self.gone |= sizes.keys()
        for key in keys:
            self.read.pop(key, None)
        return sizes

    def commit(self, key: bytes, ttl: int, *, renewed: bool) -> None:
        """A reservation becomes an entry."""
        size, meta = self.reserved.pop(key)
        is_object = isinstance(meta, ObjectMeta)
        entry = self.entries[key] = Entry(size, meta, set(meta.document_ids) if isinstance(meta, ObjectMeta) else set())
        if is_object:
            self.order.append(key)
        if is_object and ttl:
            entry.ttl, entry.renewed, entry.ends = ttl, renewed, self.after(ttl)
        self.stored = [*(other for other in self.stored if other != key), key]
        self.gone.discard(key)

    def hold(self, key: bytes, documents: tuple[str, ...]) -> bool:
        """More documents of an object."""
        entry = self.entries.get(key)
        if entry is None or not self.is_there(key):
            return False
        if isinstance(entry.meta, ObjectMeta):
            entry.documents |= set(documents)
        return True

    def use(self, keys: list[bytes], documents: tuple[str, ...], namespaces: Namespaces) -> list[bytes]:
        """Those that exist."""
        found = [key for key in keys if key in self.entries and self.seen(key, namespaces)]
        found = [key for key in found if self.hold(key, documents)]
        for key in found:
            entry = self.entries[key] = self.entries.pop(key)
            entry.uses += 1
            if entry.renewed:
                entry.ends = self.after(entry.ttl)
            if key in self.order:
                self.order.remove(key)
                self.order.append(key)
        return found

    def begin_read(self, key: bytes, most: int) -> None:
        """Somebody reads what exists, if it is not too much."""
        size = sum(self.entries[other].size for other in self.read) + self.entries[key].size
        if key in self.read or size <= most:
            self.read[key] = self.read.get(key, 0) + 1

    def end_read(self, key: bytes) -> None:
        """One of them is done."""
        if key in self.read:
            self.read[key] -= 1
            if not self.read[key]:
                del self.read[key]

    def pin(
        self, keys: list[bytes], documents: tuple[str, ...], owner: str, most: int, units: int, *, keeps: bool
    ) -> set[bytes]:
        """What is pinned, for so many units (0: for good); `CapacityError` if it is too much."""
        self.end_pins()
        named = self._named(keys, documents, owner)
        found = {key for key in named if key in self.objects() and self.is_there(key)}
        fresh = {key for key in found if not self.entries[key].pinned}
        if fresh and self.pinned + sum(self.entries[key].size for key in fresh) > most:
            raise CapacityError("too much")
        until = self.after(units) if units else NEVER
        for key in found:
            self.entries[key].pinned, self.entries[key].keeps = until, keeps
        self.order = [key for key in self.order if key not in found]
        return found

    def unpin(self, keys: list[bytes], documents: tuple[str, ...], owner: str) -> set[bytes]:
        """What was pinned."""
        found = {key for key in self._named(keys, documents, owner) if key in self.entries and self.entries[key].pinned}
        for key in found:
            self._unpin(key)
        return found

    def end_pins(self) -> None:
        """Those that have run out."""
        ended = [(e.pinned, key) for key, e in self.entries.items() if e.pinned and self.has_passed(e.pinned)]
        for _, key in sorted(ended):
            self._unpin(key)

    def overdue(self) -> set[bytes]:
        """Expired rows are dropped; what is to be deleted, but for what somebody writes."""
        self.end_pins()
        self.drop({key for key, entry in self.entries.items() if self.has_passed(entry.expires)}, "expired")
        return self.gone - self.reserved.keys()

    def _unpin(self, key: bytes) -> None:
        self.entries[key].pinned, self.entries[key].keeps = None, False
        self.order.append(key)

    def _named(self, keys: list[bytes], documents: tuple[str, ...], owner: str) -> set[bytes]:
        own = {key: entry for key, entry in self.entries.items() if entry.namespace == (owner or PUBLIC)}
        held = (key for key, entry in own.items() if entry.documents & set(documents))
        return {*(key for key in keys if not owner or key in own), *held}

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
        return self.drop(gone, reason), len(shared - gone)

    def objects(self) -> dict[bytes, ObjectMeta]:
        """The objects, the least recently used first."""
        return {key: entry.meta for key, entry in self.entries.items() if isinstance(entry.meta, ObjectMeta)}

    def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """All of a namespace, while it is no more than goes at once."""
        gone = [key for key, entry in self.entries.items() if entry.namespace == namespace]
        self.departed = {
            place: left for place, left in self.departed.items() if left[2] != namespace or left[1] == "forgotten"
        }
        return self.drop(set(gone), "")

    def departures(self, namespaces: Namespaces) -> dict[ChunkPlace, str]:
        """Why objects of these namespaces left, or of all that have anything and public; what has expired has left."""
        if namespaces is None:
            namespaces = (PUBLIC, *(meta.namespace for meta in self.objects().values()))
        latest = dict(self.departed)
        for key, meta in self.objects().items():
            place, moment = ChunkPlace(meta.chunk_key, meta.prefix_digest), self._left(self.entries[key], "expired")
            if not self.is_there(key) and moment >= latest.get(place, ((0,),))[0]:
                latest[place] = moment, "expired", meta.namespace
        return {place: reason for place, (_, reason, owner) in latest.items() if owner in namespaces}

    def _left(self, entry: Entry, reason: str) -> tuple[int, ...]:
        """When it left, if it leaves now: what expired did so before all else that happened in that unit."""
        units, number = entry.expires
        return (units, 0, number) if reason == "expired" and self.has_passed(entry.expires) else (self.now, 1)

    def variants(self, chunk: bytes, prefix: bytes, model: str, namespaces: Namespaces) -> list[bytes]:
        """Keys of a chunk's objects, the most recently used first."""
        wanted = (chunk, prefix, model)
        there = {key: meta for key, meta in self.objects().items() if self.seen(key, namespaces)}
        found = [k for k, m in there.items() if (m.chunk_key, m.prefix_digest, m.model_fingerprint) == wanted]
        return [key for key in reversed(found) if self.is_there(key)]

    def chunks(self, fingerprints: list[bytes], model: str, limit: int, namespaces: Namespaces) -> list[ChunkMatch]:
        """Chunks by fingerprints."""
        found: list[ChunkMatch] = []
        for number, fingerprint in enumerate(fingerprints):
            matches = {
                (meta.chunk_key, offset, meta.tokens)
                for key, meta in self.objects().items()
                if meta.model_fingerprint == model and self.seen(key, namespaces) and self.is_there(key)
                for offset, digest in unpack(meta.fingerprints, meta.tokens)
                if digest == fingerprint
            }
            found += [ChunkMatch(number, *match) for match in sorted(matches)[:limit]]
        return found
