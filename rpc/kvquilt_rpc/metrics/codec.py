"""How long coding takes, and of how many bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from kvquilt_rpc.metrics.measured import Histogram, Sums
from kvquilt_rpc.metrics.names import CODEC_BYTES, CODEC_OPERATIONS, CODEC_SECONDS
from kvquilt_rpc.metrics.values import Values


class CodecMeter:
    """Measures the encoding and decoding of chunks."""

    def __init__(self) -> None:
        known = [(operation,) for operation in CODEC_OPERATIONS]
        self._seconds = Histogram(CODEC_SECONDS, known)
        self._bytes = Sums(CODEC_BYTES, known)

    def coded(self, operation: str, seconds: float, nbytes: int) -> None:
        """A chunk of so many encoded bytes was coded: "encode" or "decode"."""
        self._seconds.observe(seconds, operation)
        self._bytes.add(nbytes, operation)

    def collect(self, values: Values) -> None:
        """Export it."""
        values.measured(self._seconds, self._bytes)


class Stopwatch:
    """Adds up the time that is spent within its contexts.

    Attributes:
        seconds: so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time passes."""
        begun = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - begun
