"""Bytes and objects of each namespace, and what is reserved for it."""

from collections import Counter
from collections.abc import Iterable, Iterator


class Tally:
    """Sums that are kept, so that nobody counts rows. Profiles and gates are of no namespace, whose name is empty.

    Attributes:
        used: bytes that are stored, by namespace.
        reserved: bytes that are set apart for writes.
        objects: how many there are.
        total: bytes of everything, reservations included.
        total_reserved: bytes of all reservations.
    """

    def __init__(self) -> None:
        self.used: Counter[str] = Counter()
        self.reserved: Counter[str] = Counter()
        self.objects: Counter[str] = Counter()
        self.total = 0
        self.total_reserved = 0

    def fill(self, rows: Iterable[tuple[str, int, int]]) -> None:
        """Begin with what there is: namespaces with their objects and bytes."""
        for namespace, objects, nbytes in rows:
            self.used[namespace] = nbytes
            self.total += nbytes
            if namespace:
                self.objects[namespace] = objects

    def stored(self, namespace: str, size: int) -> None:
        """Something came in."""
        self.used[namespace] += size
        self.total += size
        if namespace:
            self.objects[namespace] += 1

    def gone(self, namespace: str, size: int) -> None:
        """Something left."""
        self._take(self.used, namespace, size)
        self.total -= size
        if namespace:
            self._take(self.objects, namespace, 1)

    def reserve(self, namespace: str, size: int) -> None:
        """Set bytes apart."""
        self.reserved[namespace] += size
        self.total += size
        self.total_reserved += size

    def release(self, namespace: str, size: int) -> None:
        """Give them back."""
        self._take(self.reserved, namespace, size)
        self.total -= size
        self.total_reserved -= size

    def namespaces(self) -> Iterator[str]:
        """Those that have objects or reservations."""
        return iter({name for name in (*self.objects, *self.reserved) if name})

    @staticmethod
    def _take(counts: Counter[str], namespace: str, count: int) -> None:
        counts[namespace] -= count
        if not counts[namespace]:
            del counts[namespace]  # of namespaces that left nothing stays
