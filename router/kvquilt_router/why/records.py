"""Records of the latest requests of one namespace: in memory only, bounded in number, bytes and age."""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import islice

from kvquilt_codec.errors import NotFoundError
from kvquilt_router.why.types import RequestRecord


class RequestLog:
    """A ring of records; a new one pushes out the oldest. One namespace's, so that no other one can read it.

    Args:
        count: most records; 0 keeps none.
        nbytes: most bytes of them, about; a record that is larger alone is not kept.
        seconds: how long a record is kept.
        clock: seconds since the epoch.
    """

    def __init__(self, count: int, nbytes: int, seconds: float, clock: Callable[[], float]) -> None:
        self._count = count
        self._capacity = nbytes
        self._seconds = seconds
        self._clock = clock
        self._records: OrderedDict[str, tuple[float, RequestRecord]] = OrderedDict()
        self._nbytes = 0

    def __len__(self) -> int:
        return len(self._records)

    @property
    def nbytes(self) -> int:
        """Bytes of the records, about."""
        return self._nbytes

    def add(self, record: RequestRecord) -> bool:
        """Keep a record; whether it fits."""
        if self._count == 0 or record.nbytes > self._capacity:
            return False
        self._records[record.request_id] = (self._clock(), record)
        self._nbytes += record.nbytes
        while len(self._records) > self._count or self._nbytes > self._capacity:
            self._drop_first()
        self._drop_old()
        return True

    def get(self, request_id: str) -> RequestRecord:
        """A record.

        Raises:
            NotFoundError: there is none of this name: never, not any more, or not in this namespace.
        """
        found = self.find(request_id)
        if found is None:
            raise unknown(request_id)
        return found

    def find(self, request_id: str) -> RequestRecord | None:
        """A record, if there is one of this name."""
        self._drop_old()
        found = self._records.get(request_id)
        return None if found is None else found[1]

    def latest(self, count: int) -> list[RequestRecord]:
        """The latest records, at most so many; the latest first."""
        self._drop_old()
        return [record for _, record in islice(reversed(self._records.values()), count)]

    def audited(self, request_id: str, kl: float) -> None:
        """What an audit found of a request, if its record is still there."""
        if (found := self._records.get(request_id)) is not None:
            self._records[request_id] = (found[0], replace(found[1], audited_kl=kl))

    def _drop_first(self) -> None:
        _, (_, record) = self._records.popitem(last=False)
        self._nbytes -= record.nbytes

    def _drop_old(self) -> None:
        oldest = self._clock() - self._seconds
        while self._records and next(iter(self._records.values()))[0] < oldest:
            self._drop_first()


def unknown(request_id: str) -> NotFoundError:
    """What is said of a request that is not known: never, not any more, or not to the caller."""
    return NotFoundError(
        f"expected the id of a request that this router served lately in this namespace; got {request_id[:64]!r}: pass "
        "the prompt instead, or see router.requests_kept, router.requests_bytes and router.requests_seconds",
        reason="unknown_request",
    )
