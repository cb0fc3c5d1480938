"""Something that is stored, as the model of an index has it."""

from dataclasses import dataclass

from kvquilt_codec.catalog import GateMeta, Meta, ObjectMeta

Moment = tuple[int, int]
"""Times to live are in units that pass together; what ends in the same unit does so in the order it was set."""
NEVER = (10**9, 0)


@dataclass
class Entry:
    """Something that is stored.

    Attributes:
        ttl: units; 0: for good.
        ends: the moment at which its TTL ends.
        pinned: until when; `None`: it is not.
        keeps: whether the pin keeps it beyond its TTL.
    """

    size: int
    meta: Meta
    documents: set[str]
    uses: int = 0
    ttl: int = 0
    renewed: bool = False
    ends: Moment = NEVER
    pinned: Moment | None = None
    keeps: bool = False

    @property
    def expires(self) -> Moment:
        """When it is there no more."""
        return max(self.ends, self.pinned) if self.pinned and self.keeps else self.ends

    @property
    def namespace(self) -> str:
        """Whose it is; empty: nobody's."""
        return self.meta.namespace if isinstance(self.meta, ObjectMeta) else ""

    def form(self, key: bytes) -> str:
        """Of a profile and its gates: the profile's digest, which is the name of the form that needs them."""
        return self.meta.profile_digest if isinstance(self.meta, GateMeta) else key.hex()
