"""What of a batch is on its way: streams, the objects that they bring, and reads of these."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field

from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.node_batches import Piece
from kvquilt_rpc.nodes.member import Member
from kvquilt_rpc.nodes.refs import ObjectRef

Part = tuple[int, Piece | KvquiltError | None]
"""As of `NodeBatches.get`."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that has begun."""

    numbers: Sequence[int]
    first: Part
    rest: AsyncGenerator[Part, None]


@dataclass(slots=True, eq=False)
class Stream:
    """One that is being read.

    Attributes:
        member: from whom.
        numbers: of which objects.
        since: when nothing came; `None`: nothing is asked.
        failed: whether it was counted that its node did not answer.
        put_off: objects that it cannot give, with why, and that others are to be asked for in one call.
    """

    member: Member
    numbers: Sequence[int]
    since: float | None
    failed: bool = False
    put_off: dict[int, KvquiltError] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Arriving:
    """One object.

    Attributes:
        order: nodes that may be asked, the best first.
        stream: that it comes from; what others bring of it is not looked at.
        begun: whether anything of it came: then no other node is asked.
    """

    ref: ObjectRef
    quality_layers: int
    order: Sequence[Member] = ()
    stream: Stream | None = None
    begun: bool = False
    ended: bool = False
    error: KvquiltError | None = None
    closed: bool = False
    waiting: deque[Piece] = field(default_factory=deque)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, error: KvquiltError | None = None) -> None:
        """Nothing more comes."""
        self.ended, self.error = True, error
        self.changed.set()


class Pieces(AsyncIterator[Piece]):
    """See `ObjectPieces`."""

    def __init__(self, arriving: Arriving, taken: Callable[[Iterable[Piece]], None]) -> None:
        self._arriving = arriving
        self._taken = taken

    async def __anext__(self) -> Piece:
        arriving = self._arriving
        while not arriving.waiting:
            if arriving.error is not None:
                raise arriving.error
            if arriving.ended or arriving.closed:
                raise StopAsyncIteration
            arriving.changed.clear()
            await arriving.changed.wait()
        piece = arriving.waiting.popleft()
        self._taken([piece])
        return piece

    async def aclose(self) -> None:
        """See `ObjectPieces.aclose`."""
        self._arriving.closed = True
        self._taken(self._arriving.waiting)
        self._arriving.waiting.clear()
