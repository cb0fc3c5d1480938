"""What a node measures for its metrics only."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter

from kvquilt_cache_node.metrics import names
from kvquilt_codec import errors
from kvquilt_rpc.metrics.codec import CodecMeter
from kvquilt_rpc.metrics.measured import Histogram, Sums
from kvquilt_rpc.metrics.values import Values

BLOB_OPERATIONS = ("write", "read", "delete", "list")
INDEX_OPERATIONS = ("look_up", "use", "reserve", "change", "sweep", "usage")
OUTCOMES = ("ok", "not_found", "denied", "full", "damaged", "refused", "unavailable", "deadline", "cancelled", "error")
"""`outcome` of `names.OPERATIONS`."""
REFUSALS = ("over_cap", "over_quota", "over_share", "store_full", "disk_full")
"""`reason` of `names.PUTS_REFUSED`."""
REASONS = ("evicted", "expired", "forgotten", "lost", "damaged")
_WATCHED = ("ok", "full", "damaged", "unavailable", "deadline")
_KINDS: tuple[tuple[type[BaseException], str], ...] = (
    (errors.NotFoundError, "not_found"),
    (errors.CapacityError, "full"),
    (errors.IntegrityError, "damaged"),
    (errors.UnavailableError, "unavailable"),
    (errors.DeadlineError, "deadline"),
    (errors.BadRequestError, "denied"),
    (errors.PermissionDeniedError, "denied"),
    (Exception, "error"),
)


@dataclass(slots=True)
class Operation:
    """Something that a medium or the index does.

    Attributes:
        waited: seconds in which it was not at work, but whoever takes what it gives.
    """

    waited: float = 0.0

    @contextmanager
    def given(self) -> Iterator[None]:
        """Somebody has what it gave, and it waits."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.waited += perf_counter() - begun


class NodeMeter:
    """Measures what a node does.

    Attributes:
        codec: of chunks.
        keys: tells how many master keys there are, and how many keys of namespaces are unwrapped; `None`: nothing is
            encrypted.
    """

    def __init__(self) -> None:
        blobs = [("store", operation) for operation in BLOB_OPERATIONS]
        index = [("index", operation) for operation in INDEX_OPERATIONS]
        watched = [(*of, outcome) for of in (*blobs, *index) for outcome in _WATCHED]
        self._operations = Sums(names.OPERATIONS, watched)
        self._seconds = Histogram(names.OPERATION_SECONDS, [*blobs, *index])
        self._read = Sums(names.READ_BYTES, [("store",)])
        self._written = Sums(names.WRITTEN_BYTES, [("store",)])
        self._removed = Sums(names.REMOVED, [("store", reason) for reason in REASONS])
        self._refused = Sums(names.PUTS_REFUSED, [(reason,) for reason in REFUSALS])
        self.codec = CodecMeter()
        self.keys: Callable[[], tuple[int, int]] | None = None

    @contextmanager
    def operation(self, tier: str, name: str) -> Iterator[Operation]:
        """A tier's medium, or the index, does something within."""
        operation, outcome, begun = Operation(), "ok", perf_counter()
        try:
            yield operation
        except BaseException as error:
            outcome = outcome_of(error)
            raise
        finally:
            self._seconds.observe(perf_counter() - begun - operation.waited, tier, name)
            self._operations.add(1, tier, name, outcome)

    def read(self, tier: str, nbytes: int) -> None:
        """Bytes came out of a tier."""
        self._read.add(nbytes, tier)

    def written(self, tier: str, nbytes: int) -> None:
        """Bytes went into a tier."""
        self._written.add(nbytes, tier)

    def removed(self, reason: str, count: int) -> None:
        """Objects left the store."""
        self._removed.add(count, "store", reason)

    @contextmanager
    def putting(self) -> Iterator[None]:
        """An object is stored within, if there is room."""
        try:
            yield
        except errors.CapacityError as error:
            self._refused.add(1, error.reason if error.reason in REFUSALS else "other")
            raise

    def reads(self, tier: str) -> float:
        """How many reads a tier's medium has answered."""
        return self._operations.snapshot().get((tier, "read", "ok"), 0.0)

    def collect(self, values: Values) -> None:
        """Export it."""
        values.measured(self._operations, self._seconds, self._read, self._written, self._removed, self._refused)
        self.codec.collect(values)
        if self.keys is not None:
            masters, unwrapped = self.keys()
            values.set(names.MASTER_KEYS, masters)
            values.set(names.NAMESPACE_KEYS, unwrapped)


def outcome_of(error: BaseException) -> str:
    """The outcome of an operation that raised this; one of `OUTCOMES`."""
    if isinstance(error, errors.UnavailableError) and error.reason == "store_refused":
        return "refused"
    return next((outcome for kind, outcome in _KINDS if isinstance(error, kind)), "cancelled")
