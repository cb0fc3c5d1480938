"""The vocabulary of eviction: what a policy is told, and what it is asked. Read this file first."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

Key = Hashable
"""Names an object: a 32-byte key in a store, a block's number in a trace."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What a policy knows of an object when it comes in.

    Attributes:
        size: bytes, at least 1 (an object of none costs its row).
        cost: seconds that a use saves: measured compute, times the share of uses that did not compute it again.
        uses: how often it was used before, as far as that is known.
    """

    size: int
    cost: float = 0.0
    uses: int = 0


class EvictionPolicy(Protocol):
    """Which object of a full store goes next. Holds no bytes and enforces no cap: its store does.

    Every call takes O(1) or O(log n) time, amortised. A policy learns of an object by `insert`, until `evict` or
    `remove` takes it away; what it remembers of objects that are gone is bounded. Not safe from several threads.
    """

    def insert(self, key: Key, entry: Entry) -> None:
        """An object came in, and counts as used just now.

        Raises:
            ValueError: it is there.
        """

    def use(self, key: Key) -> None:
        """An object was used.

        Raises:
            KeyError: it is not there.
        """

    def remove(self, key: Key) -> None:
        """An object left for another reason than to make room; nothing happens if it is not there."""

    def evict(self) -> Key:
        """Choose an object to make room, and take it away.

        Raises:
            KeyError: there is none.
        """

    def __contains__(self, key: object) -> bool:
        """Whether an object is there."""

    def __len__(self) -> int:
        """Number of objects."""
