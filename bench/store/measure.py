"""Bytes a second, all ways by turns in every round, so that what else the machine does meets them alike."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median, quantiles

from processes import cpu_seconds
from store.objects import Made
from store.ways import Read, Way


@dataclass(slots=True)
class Samples:
    """Of one way.

    Attributes:
        rates: MB/s (10^6 bytes) of each round.
        cpu_seconds: CPU time of all rounds, of this process and of those that work for it.
        nbytes: of all rounds.
    """

    rates: list[float] = field(default_factory=list)
    cpu_seconds: float = 0.0
    nbytes: int = 0

    @property
    def rate(self) -> float:
        """The median."""
        return median(self.rates)

    @property
    def cpu_per_gb(self) -> float:
        """Seconds of CPU time for 10^9 bytes."""
        return self.cpu_seconds / self.nbytes * 1e9

    @contextmanager
    def measuring(self, pids: Sequence[int], nbytes: int) -> Iterator[None]:
        """One round: `nbytes` are moved within."""
        cpu, began = _cpu_of(pids), time.perf_counter()
        yield
        self.rates.append(nbytes / (time.perf_counter() - began) / 1e6)
        self.cpu_seconds += _cpu_of(pids) - cpu
        self.nbytes += nbytes


Measured = dict[str, Samples]
"""By the name of the way."""


def _cpu_of(pids: Sequence[int]) -> float:
    """CPU time so far of this process and of others."""
    return cpu_seconds(pids) + time.process_time()


async def round_of_gets(ways: Sequence[Way], objects: Sequence[Made], count: int, readers: int, into: Measured) -> None:
    """`count` gets each way, `readers` at once; the order of the ways is drawn."""
    chosen = [objects[number % len(objects)] for number in range(count)]
    nbytes = sum(len(made.data) for made in chosen)
    for way in random.sample(ways, len(ways)):
        with into.setdefault(way.name, Samples()).measuring(way.pids, nbytes):
            came = await _each(way.read, chosen, readers)
        if came != nbytes:
            raise RuntimeError(f"expected {nbytes} bytes through {way.name}; got {came}")


async def round_of_batches(ways: Sequence[Way], objects: Sequence[Made], count: int, into: Measured) -> None:
    """As `round_of_gets`, all of them in one request."""
    chosen = [objects[number % len(objects)] for number in range(count)]
    nbytes = sum(len(made.data) for made in chosen)
    for way in random.sample(ways, len(ways)):
        if way.read_all is None:
            continue
        with into.setdefault(way.name, Samples()).measuring(way.pids, nbytes):
            came = await way.read_all(chosen)
        if came != nbytes:
            raise RuntimeError(f"expected {nbytes} bytes through {way.name}; got {came}")


async def round_of_puts(ways: Sequence[Way], objects: Sequence[Made], into: Measured) -> None:
    """A put of each object each way, one after the other; then they are dropped again."""
    for way in random.sample(ways, len(ways)):
        if way.write is None or way.drop is None:
            continue
        for made in objects:
            await way.drop(made)
        with into.setdefault(way.name, Samples()).measuring(way.pids, sum(len(made.data) for made in objects)):
            for made in objects:
                await way.write(made)


async def _each(read: Read, objects: Sequence[Made], readers: int) -> int:
    waiting = iter(objects)

    async def reader() -> int:
        return sum([await read(made) for made in waiting])

    return sum(await asyncio.gather(*(reader() for _ in range(readers))))


def ratios(of: Samples, to: Samples) -> tuple[float, float, float]:
    """Quartiles of a way's rate over another's, round by round: the median is the second."""
    pairs = [mine / other for mine, other in zip(of.rates, to.rates, strict=True)]
    if len(pairs) == 1:
        return pairs[0], pairs[0], pairs[0]
    low, middle, high = quantiles(pairs, n=4, method="inclusive")
    return low, middle, high
