"""Blobs that fail on purpose, for tests and drills: what a broken medium does, as often as is asked for."""

import asyncio
import random
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NoReturn

from kvquilt_cache_node.types import Blobs, ByteRange, Piece
from kvquilt_codec.errors import BadRequestError, KvquiltError, UnavailableError

Operation = Literal["write", "read", "delete", "sizes"]
PROBABILITIES = ("slow", "blackhole", "error", "lost_answer", "truncate", "flip")


@dataclass(frozen=True, slots=True)
class Faults:
    """What may happen to one kind of operation. Each probability is drawn by itself, in the order given here.

    Attributes:
        latency: seconds that an operation is late.
        slow: probability that it is.
        blackhole: probability that it never answers, until it is cancelled or the blobs are closed.
        error: probability that it raises `raised`, and does nothing else.
        lost_answer: probability that it raises `raised` after it was carried out.
        truncate: probability that a read gives less than asked: its longest item loses its end.
        flip: probability that one bit of a read's longest item is another one.
        raised: kind of the error.
    """

    latency: float = 0.0
    slow: float = 1.0
    blackhole: float = 0.0
    error: float = 0.0
    lost_answer: float = 0.0
    truncate: float = 0.0
    flip: float = 0.0
    raised: type[KvquiltError] = UnavailableError

    def __post_init__(self) -> None:
        for name in PROBABILITIES:
            if not 0 <= getattr(self, name) <= 1:
                raise BadRequestError(f"expected a probability from 0 to 1 as {name}; got {getattr(self, name)}")


NONE = Faults()
"""Nothing goes wrong."""


class FaultBlobs:
    """See `Blobs`. Passes every call on to other blobs, and lets some go wrong.

    Args:
        inner: closed with this wrapper.
        faults: by operation; an operation that is missing works. May be replaced at any time (`faults`).
        seed: the same calls in the same order go wrong in the same way.

    Attributes:
        faults: what goes wrong from now on.
        done: how often each fault happened, by name.
    """

    def __init__(self, inner: Blobs, faults: Mapping[Operation, Faults] | None = None, *, seed: int = 0) -> None:
        self._inner = inner
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._closed = asyncio.Event()
        self.faults: Mapping[Operation, Faults] = faults or {}
        self.done: dict[str, int] = {}

    @property
    def name(self) -> str:
        """See `Blobs.name`."""
        return self._inner.name

    @property
    def durable(self) -> bool:
        """See `Blobs.durable`."""
        return self._inner.durable

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        drawn = await self._before("write")
        await self._inner.write(key, data)
        self._after("write", drawn)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        drawn = await self._before("read")
        items = await self._inner.read(key, ranges)
        self._after("read", drawn)
        return self._spoilt(items, drawn)

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. The faults are those of `read`."""
        drawn = await self._before("read")
        items = [bytes(piece) async for piece in self._inner.pieces(key)]
        self._after("read", drawn)
        for item in self._spoilt(items, drawn):
            yield item

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        drawn = await self._before("delete")
        await self._inner.delete(key)
        self._after("delete", drawn)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`."""
        drawn = await self._before("sizes")
        found = await self._inner.sizes()
        self._after("sizes", drawn)
        return found

    async def close(self) -> None:
        """See `Blobs.close`. What waits for an answer that never comes is refused."""
        self._closed.set()
        await self._inner.close()

    async def _before(self, operation: Operation) -> set[str]:
        """Draw what goes wrong with one call, let what comes before it happen, and give all that was drawn."""
        may = self.faults.get(operation, NONE)
        drawn = {name for name in PROBABILITIES if self._random.random() < getattr(may, name)}
        if may.latency and "slow" in drawn:
            self._count("slow")
            await asyncio.sleep(may.latency)
        if "blackhole" in drawn:
            self._count("blackhole")
            await self._closed.wait()
            raise UnavailableError("expected open blobs; they were closed while a call waited for its answer")
        if "error" in drawn:
            self._fail(may, "error")
        return drawn

    def _after(self, operation: Operation, drawn: set[str]) -> None:
        if "lost_answer" in drawn:
            self._fail(self.faults.get(operation, NONE), "lost_answer")

    def _fail(self, may: Faults, name: str) -> NoReturn:
        self._count(name)
        raise may.raised("expected a medium that works; this one fails on purpose")

    def _spoilt(self, items: list[bytes], drawn: set[str]) -> list[bytes]:
        longest = max(range(len(items)), key=lambda number: len(items[number]), default=None)
        if longest is None or not items[longest]:
            return items
        data = bytearray(items[longest])
        if "flip" in drawn:
            self._count("flip")
            data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
        if "truncate" in drawn:
            self._count("truncate")
            del data[self._random.randrange(len(data)) :]
        return [*items[:longest], bytes(data), *items[longest + 1 :]]

    def _count(self, name: str) -> None:
        self.done[name] = self.done.get(name, 0) + 1
