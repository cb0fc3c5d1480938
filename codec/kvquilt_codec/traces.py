"""What a store can tell of chunks that a look-up did not find."""

from dataclasses import dataclass

from kvquilt_codec.catalog import ObjectInfo
from kvquilt_codec.identity import check_digest

DEPARTURES = ("evicted", "expired", "forgotten", "lost", "damaged")
"""Why an object left a store: to make room, at the end of its time, because somebody wanted it, because its bytes were
gone, or were found damaged."""


@dataclass(frozen=True, slots=True)
class ChunkPlace:
    """A chunk's text after a shared prefix: what is looked up.

    Raises:
        BadRequestError: digests that cannot be.
    """

    chunk_key: bytes
    prefix_digest: bytes

    def __post_init__(self) -> None:
        check_digest(self.chunk_key, "chunk key")
        check_digest(self.prefix_digest, "prefix digest")


@dataclass(frozen=True, slots=True)
class Departed:
    """That an object of a chunk after a shared prefix left the store, the last time that one did.

    Attributes:
        reason: one of `DEPARTURES`.
        at: when, in seconds since the epoch.
    """

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Trace:
    """What a store knows of some chunks.

    Attributes:
        objects: by chunk key, after any shared prefix, the most recently used first; keys without any are left out.
        departed: by place.
        models: fingerprints of models that objects were stored of lately.
    """

    objects: dict[bytes, list[ObjectInfo]]
    departed: dict[ChunkPlace, Departed]
    models: frozenset[str]
