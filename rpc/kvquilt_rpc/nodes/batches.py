"""Objects that are read together: one stream from each node, and to whoever waits for one of them a read of its own."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from typing import Any

from kvquilt_codec.errors import DeadlineError, KvquiltError, UnavailableError
from kvquilt_rpc.node_batches import MAX_CHUNKS, Piece, Wanted
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.arriving import Arriving, Opened, Part, Pieces, Stream
from kvquilt_rpc.nodes.attempts import Answer, Attempts, Call
from kvquilt_rpc.nodes.member import NO_ANSWER, Member
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.routing import Routing

log = logging.getLogger(__name__)

_AHEAD = 16 << 20
"""Bytes that came and wait for their readers; beyond these no more is taken from the nodes."""


class Batch:
    """Objects on their way, from `start` until `close`.

    What fails for one object fails for that one only. A node that does not answer, or stops answering for half of the
    time that is left, costs what it had begun to send; everything else of it is asked of the next node, where any node
    has it, within the budget of retries.
    """

    def __init__(
        self,
        wanted: Sequence[tuple[ObjectRef, int]],
        model_fingerprint: str,
        attempts: Attempts,
        *,
        shared: bool,
        deadline: float,
    ) -> None:
        self._objects = [Arriving(ref, layers) for ref, layers in wanted]
        self._numbers: defaultdict[tuple[bytes, int], deque[int]] = defaultdict(deque)
        for number, (ref, layers) in enumerate(wanted):
            self._numbers[ref.key, layers].append(number)
        self._fingerprint = model_fingerprint
        self._attempts = attempts
        self._call = Call("get_chunks", self._open, shared, lambda opened: opened.rest.aclose(), optional=True)
        self._end = time.monotonic() + deadline
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiting_bytes = 0
        self._room = asyncio.Event()

    def pieces(self, ref: ObjectRef, quality_layers: int = 0) -> Pieces:
        """See `ObjectBatch.pieces`."""
        return Pieces(self._objects[self._numbers[ref.key, quality_layers].popleft()], self._taken)

    def start(self, routing: Routing) -> int:
        """Ask for everything; how many objects are read from several nodes because they are hot."""
        hot = 0
        asked = []
        for number, arriving in enumerate(self._objects):
            try:
                arriving.order, spread = routing.read(arriving.ref)
            except KvquiltError as error:
                arriving.end(error)
            else:
                hot += spread
                asked.append(number)
        self._ask(asked)
        return hot

    async def close(self) -> None:
        """Stop; what has not come does not come."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ask(self, numbers: Iterable[int]) -> None:
        """Ask for objects, each of its first node, those of one node in one call."""
        groups: defaultdict[Member, list[int]] = defaultdict(list)
        for number in numbers:
            groups[self._objects[number].order[0]].append(number)
        for own in groups.values():
            for begin in range(0, len(own), MAX_CHUNKS):
                self._run(self._group, own[begin : begin + MAX_CHUNKS])

    def _run(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        self._tasks.add(asyncio.create_task(self._guarded(work, *arguments)))

    async def _guarded(self, work: Callable[..., Coroutine[Any, Any, None]], *arguments: Any) -> None:
        try:
            await work(*arguments)
        except Exception:
            # Nobody awaits this task: whoever waits for an object must be told, or would wait to the deadline.
            log.exception("unforeseen error in a batch")
            for arriving in self._objects:
                if not arriving.ended:
                    arriving.end(KvquiltError("unforeseen error while objects were read; the log has it"))

    async def _group(self, numbers: Sequence[int]) -> None:
        orders = {number.to_bytes(4): self._objects[number].order for number in numbers}
        for answer in await self._attempts.ask(orders, self._call, max(0.0, self._end - time.monotonic())):
            if answer.result is not None:
                self._run(self._read, answer.member, answer.result)
                continue
            for key in answer.keys:
                self._objects[int.from_bytes(key)].end(_why(answer))

    async def _open(self, client: NodeClient, keys: Sequence[bytes], seconds: float) -> Opened:
        numbers = [int.from_bytes(key) for key in keys]
        wanted = [Wanted(self._objects[number].ref.key, self._objects[number].quality_layers) for number in numbers]
        left = max(0.0, self._end - time.monotonic())
        parts = client.batches.get(wanted, self._fingerprint, deadline=left)
        try:
            async with asyncio.timeout(seconds):
                return Opened(numbers, await anext(parts), parts)
        except BaseException as error:
            await parts.aclose()
            if isinstance(error, TimeoutError):
                raise DeadlineError(f"expected an object within {seconds:.3g} s; none began to come") from None
            raise

    async def _read(self, member: Member, opened: Opened) -> None:
        """Hand out what a stream brings, to its end."""
        stream = Stream(member, opened.numbers, time.monotonic())
        for number in stream.numbers:
            self._objects[number].stream = stream
        watch = asyncio.create_task(self._watch(stream))
        try:
            with member.busy():
                async with aclosing(opened.rest) as rest:
                    await self._take(stream, opened.first)
                    async for part in rest:
                        stream.since = time.monotonic()
                        await self._take(stream, part)
        except KvquiltError as error:
            if isinstance(error, UnavailableError):
                self._failed(stream)
            for number in self._left(stream):
                self._not_given(stream, number, error)
        finally:
            watch.cancel()
        self._ask_others(stream)

    async def _take(self, stream: Stream, part: Part) -> None:
        place, piece = part
        number = stream.numbers[place]
        arriving = self._objects[number]
        if not self._is_of(stream, number):
            return
        if piece is None:
            arriving.end()
        elif isinstance(piece, KvquiltError):
            if isinstance(piece, NO_ANSWER):
                self._failed(stream)
            self._not_given(stream, number, piece)
        else:
            arriving.begun = True
            if arriving.closed:
                return
            arriving.waiting.append(piece)
            arriving.changed.set()
            self._waiting_bytes += _size(piece)
            while self._waiting_bytes > _AHEAD:
                stream.since = None
                self._ask_others(stream)  # or their reader might wait for them, and the stream for that reader
                self._room.clear()
                await self._room.wait()
            stream.since = time.monotonic()

    def _taken(self, pieces: Iterable[Piece]) -> None:
        self._waiting_bytes -= sum(map(_size, pieces))
        if self._waiting_bytes <= _AHEAD:
            self._room.set()

    async def _watch(self, stream: Stream) -> None:
        """When nothing comes for half of the time that was left, ask others for what has not begun to come."""
        patience = max(0.0, self._end - time.monotonic()) / 2
        while True:
            waited = 0.0 if stream.since is None else time.monotonic() - stream.since
            if waited >= patience:
                self._failed(stream)
                self._moved(stream, self._left(stream))
                return
            await asyncio.sleep(patience - waited)

    def _not_given(self, stream: Stream, number: int, error: KvquiltError) -> None:
        """An object does not come from there: others are to be asked for it, or it has failed."""
        if isinstance(error, NO_ANSWER) and self._others(stream, number):
            stream.put_off.setdefault(number, error)
        elif number not in stream.put_off:
            self._objects[number].end(error)

    def _ask_others(self, stream: Stream) -> None:
        """Ask others for what was put off, for all of it at once; what they are not asked for has failed."""
        put_off = {number: error for number, error in stream.put_off.items() if self._is_of(stream, number)}
        stream.put_off.clear()
        moved = self._moved(stream, put_off)
        for number, error in put_off.items():
            if number not in moved:
                self._objects[number].end(error)

    def _moved(self, stream: Stream, numbers: Iterable[int]) -> list[int]:
        """Those that another node is asked for now."""
        others = {number: found for number in numbers if (found := self._others(stream, number))}
        if not others or not self._attempts.again():
            return []
        for number, order in others.items():
            self._objects[number].order = order
            self._objects[number].stream = None
        self._ask(others)
        return list(others)

    def _others(self, stream: Stream, number: int) -> list[Member]:
        """Nodes that may be asked for an object instead."""
        arriving = self._objects[number]
        if arriving.begun:
            return []
        return [member for member in arriving.order if member is not stream.member and member.available]

    def _left(self, stream: Stream) -> list[int]:
        return [number for number in stream.numbers if self._is_of(stream, number)]

    def _is_of(self, stream: Stream, number: int) -> bool:
        return self._objects[number].stream is stream and not self._objects[number].ended

    def _failed(self, stream: Stream) -> None:
        """Its node did not answer; that counts once."""
        if not stream.failed:
            stream.failed = True
            stream.member.failed()


def _size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else 0


def _why(answer: Answer[Opened]) -> KvquiltError:
    return answer.error or UnavailableError(f"expected an answer of node {answer.member.site.name}; there is none")
