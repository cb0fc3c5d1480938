"""KV that waits to be sent to the router: bounded, in the background, one after the other."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from kvquilt.worker import wire
from kvquilt.worker.types import KvToSave, ServedModel, WorkerOptions
from kvquilt_codec.errors import KvquiltError
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import frames
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)


class SaveQueue:
    """Used in one event loop.

    Args:
        send: sends one, and returns when it is stored.
        options: see there.
        counters: counts what is queued, dropped, done and failed.
    """

    def __init__(
        self,
        send: Callable[[KvToSave], Awaitable[pb.StoreKvResponse]],
        options: WorkerOptions,
        counters: Counters,
    ) -> None:
        self._send = send
        self._options = options
        self._counters = counters
        self._waiting: deque[KvToSave] = deque()
        self._bytes = 0
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.create_task(self._run())

    def put(self, saving: KvToSave) -> bool:
        """Queue; `False` if there is no room for it."""
        size = nbytes(saving)
        while self._options.drop_oldest and self._waiting and self._bytes + size > self._options.save_bytes:
            self._bytes -= nbytes(self._waiting.popleft())
            self._counters.add("saves_dropped")
        if self._bytes + size > self._options.save_bytes:
            self._counters.add("saves_dropped")
            return False
        self._waiting.append(saving)
        self._bytes += size
        self._counters.add("saves_queued")
        self._idle.clear()
        self._wake.set()
        return True

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                saving = self._waiting.popleft()
                try:
                    await self._sent(saving)
                finally:
                    self._bytes -= nbytes(saving)
            self._idle.set()

    async def _sent(self, saving: KvToSave) -> None:
        try:
            stored = await self._send(saving)
        except KvquiltError as error:
            self._counters.add("saves_failed")
            log.warning("KV of %d tokens was not saved: %s", tokens(saving), error)
        except Exception:
            # The next one must still be sent: nobody waits for this task, and its end would not be seen.
            self._counters.add("saves_failed")
            log.exception("KV of %d tokens was not saved", tokens(saving))
        else:
            self._counters.add("saves_failed" if stored.chunks_failed else "saves_done")
            self._counters.add("tokens_saved", stored.tokens)
            self._counters.add("bytes_saved", stored.stored_bytes)
            if stored.chunks_failed:
                log.warning("%d chunks were not saved: %s", stored.chunks_failed, stored.failure_reason)

    async def settle(self) -> None:
        """Wait until everything queued has been dealt with."""
        await self._idle.wait()

    async def close(self) -> None:
        """Send no more; what waits is dropped and counted."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._counters.add("saves_dropped", len(self._waiting))
        self._waiting.clear()
        self._idle.set()


def nbytes(saving: KvToSave) -> int:
    """Bytes of KV."""
    return sum(keys.nbytes + values.nbytes for keys, values in saving.layers)


def tokens(saving: KvToSave) -> int:
    """Tokens whose KV is to be saved."""
    return int(saving.layers[0][0].shape[1])


async def messages(
    saving: KvToSave, model: ServedModel, seconds_per_token: float | None
) -> AsyncIterator[pb.StoreKvRequest]:
    """The stream of one request's KV."""
    yield pb.StoreKvRequest(header=wire.store_header(saving, model, seconds_per_token))
    offset = 0
    for layer in saving.layers:
        for tensor in layer:
            data = await asyncio.to_thread(tensor.tobytes)
            for frame in frames.split([data], offset):
                yield pb.StoreKvRequest(frame=frame)
            offset += len(data)
