"""Shares of a store: which namespace's objects go next, before a policy says which of them.

Each namespace has a floor, a share and possibly a cap. What a store has beyond all floors is shared by weighted max-min
fairness (Bertsekas and Gallager, Data Networks, section 6.5.2): the namespace goes first that holds the most beyond its
floor for its share. So who holds little keeps it, what somebody leaves is everybody's, and who puts most evicts itself.
"""

from collections.abc import Mapping
from dataclasses import dataclass

DEFAULT_NAMESPACE = "*"
"""Stands in settings for every namespace that is not named."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a namespace may hold.

    Attributes:
        floor: bytes that others' puts leave it.
        share: of what is beyond all floors, relative to the shares of the others.
        cap: most bytes; `None`: no other limit than the store's.
    """

    floor: int = 0
    share: float = 1.0
    cap: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """What a namespace holds.

    Attributes:
        used: bytes of its objects and reservations; of the one that puts, with what it puts.
        largest: bytes of its largest object (at least 1); 0 if it has none that could go.
    """

    used: int
    largest: int


class Quotas:
    """The quotas of all namespaces.

    Args:
        named: by namespace; `DEFAULT_NAMESPACE` is each other one's.
    """

    def __init__(self, named: Mapping[str, Quota]) -> None:
        self.named = dict(named)
        self._default = self.named.pop(DEFAULT_NAMESPACE, Quota())

    @property
    def default(self) -> Quota:
        """Of each namespace that is not named."""
        return self._default

    def of(self, namespace: str) -> Quota:
        """The quota of a namespace."""
        return self.named.get(namespace, self._default)

    def protected(self, used: Mapping[str, int], putting: str) -> int:
        """Bytes that a put may not evict: what the other namespaces hold below their floors.

        Args:
            used: bytes that are stored, by namespace; under the empty name nobody's, which what is protected may need.
            putting: who puts.
        """
        others = sum(min(held, self.of(name).floor) for name, held in used.items() if name not in ("", putting))
        return others and others + used.get("", 0)

    def victim(self, standings: Mapping[str, Standing], putting: str) -> str | None:
        """Whose object makes room; `None`: nobody's may.

        Another namespace is not taken below its floor while the one that puts has objects of its own; if it has none,
        by less than one object. What is at or below its floor loses nothing to others.

        Args:
            standings: of all namespaces that hold something, and of the one that puts.
            putting: who puts; it may be nobody.
        """
        above = {name: held for name, held in standings.items() if held.largest and self._excess(name, held) > 0}
        clear = [
            name
            for name, held in above.items()
            if name == putting or self._excess(name, held) >= held.largest * (self.of(name).floor > 0)
        ]
        if clear:
            return max(clear, key=lambda name: (self._rank(name, above[name]), name == putting, name))
        if putting in standings and standings[putting].largest:
            return putting
        return max(above, key=lambda name: (self._rank(name, above[name]), name), default=None)

    def _excess(self, name: str, held: Standing) -> int:
        return held.used - self.of(name).floor

    def _rank(self, name: str, held: Standing) -> float:
        return self._excess(name, held) / self.of(name).share
