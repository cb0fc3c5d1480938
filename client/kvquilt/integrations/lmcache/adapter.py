"""LMCache's L2 interface over kvquilt's cache nodes.

LMCache calls from its controllers' threads, which must not wait: every call hands work to the adapter's own thread and
returns. Each task that is submitted is completed, whatever happens, and its event signalled.
"""

import logging
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

from lmcache.lmcache_native import Bitmap
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.distributed.internal_api import L1MemoryDesc, L2StoreResult
from lmcache.v1.distributed.l2_adapters.base import L2AdapterInterface, L2TaskId
from lmcache.v1.memory_management import MemoryObj

from kvquilt.integrations.lmcache.config import KvquiltL2AdapterConfig
from kvquilt.integrations.lmcache.identity import Layout
from kvquilt.integrations.lmcache.memory import described_layout, view_of
from kvquilt.integrations.lmcache.running import Running
from kvquilt.integrations.lmcache.seen import Seen
from kvquilt.integrations.lmcache.storing import COUNTERS, Held, NodeStorage, Stored
from kvquilt.integrations.lmcache.tasks import Board, task_ids
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

Result = TypeVar("Result")
Answer = TypeVar("Answer")


class KvquiltL2Adapter(L2AdapterInterface):  # type: ignore[misc]
    """Stores LMCache's objects on cache nodes, encoded and checksummed, and loads them.

    Nodes evict, and keep quotas by namespace: to LMCache the adapter has no capacity of its own. Nothing is locked on a
    node: what goes between a look-up and its load is a miss.

    Args:
        config: checked parameters.
        l1_memory_desc: LMCache's memory; not needed.

    Raises:
        BadRequestError, NotFoundError: addresses, files or credentials that cannot be. Nodes need not answer.
    """

    config_class_name = "KvquiltL2AdapterConfig"

    def __init__(self, config: KvquiltL2AdapterConfig, l1_memory_desc: L1MemoryDesc | None = None) -> None:
        del l1_memory_desc
        super().__init__(max_capacity_bytes=0)
        self._limit = int(config.settings.store_bytes)
        self._counters = Counters(COUNTERS)
        self._running = Running(config.settings, self._counters)
        ids = task_ids()
        self._stores: Board[L2StoreResult] = Board(ids)
        self._lookups: Board[Bitmap] = Board(ids)
        self._loads: Board[Bitmap] = Board(ids)
        self._lock = threading.Lock()
        self._waiting = 0
        self._seen = Seen()
        self._closed = False

    def get_store_event_fd(self) -> int:
        """See `L2AdapterInterface`; likewise what follows."""
        return self._stores.fd

    def get_lookup_and_lock_event_fd(self) -> int:
        """Event of look-ups."""
        return self._lookups.fd

    def get_load_event_fd(self) -> int:
        """Event of loads."""
        return self._loads.fd

    def submit_store_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Store objects that are not on nodes yet. Dropped, and counted, if too much waits already."""
        held = self._held(keys, objects)
        task = self._stores.begin(L2StoreResult(False, 0))
        size = sum(one.buffer.nbytes for one in held.values())
        with self._lock:
            room = not self._waiting or self._waiting + size <= self._limit
            self._waiting += size if room else 0
        if not room:
            self._counters.add("dropped", len(keys))
            self._stores.complete(task, None)
            return task

        def result(stored: Stored) -> L2StoreResult:
            sizes = self._tell_stored(list(held.values()), stored)
            complete = stored.complete and len(held) == len(keys)
            return L2StoreResult(complete, sum(sizes) if complete else 0)

        def ended() -> None:
            with self._lock:
                self._waiting -= size

        self._begin(self._stores, task, lambda storage: storage.store(list(held.values())), result, ended)
        return task

    def pop_completed_store_tasks(self) -> dict[L2TaskId, L2StoreResult]:
        """What became of stores; a task succeeds if all of its objects are on nodes."""
        return self._stores.take_all()

    def submit_lookup_and_lock_task(
        self, keys: list[ObjectKey], group_layout_descs: dict[int, MemoryLayoutDesc]
    ) -> L2TaskId:
        """Look objects up by key and layout; nothing is locked."""
        task = self._lookups.begin(Bitmap(len(keys)))
        asked: list[tuple[ObjectKey, Layout, int]] = []
        places: list[int] = []
        for place, key in enumerate(keys):
            described = described_layout(group_layout_descs.get(key.object_group_id))
            if described is not None:
                self._seen.layout(key, *described)
            for layout, size in self._seen.layouts(key) if described is None else (described,):
                asked.append((key, layout, size))
                places.append(place)

        def result(found: list[int]) -> Bitmap:
            there = sorted({places[at] for at in found})
            if there:
                self._notify_keys_accessed([keys[place] for place in there])
            return _bitmap(len(keys), there)

        self._begin(self._lookups, task, lambda storage: storage.lookup(asked), result)
        return task

    def query_lookup_and_lock_result(self, task_id: L2TaskId) -> Bitmap | None:
        """Which objects were found, once."""
        return self._lookups.take(task_id)

    def submit_unlock(self, keys: list[ObjectKey]) -> None:
        """Nothing was locked."""

    def submit_load_task(self, keys: list[ObjectKey], objects: list[MemoryObj]) -> L2TaskId:
        """Load objects; of one that is not there, or not intact, the buffer stays as it is and the bit is 0."""
        held = self._held(keys, objects)
        task = self._loads.begin(Bitmap(len(keys)))
        places = list(held)

        def result(loaded: list[int]) -> Bitmap:
            return _bitmap(len(keys), [places[at] for at in loaded])

        self._begin(self._loads, task, lambda storage: storage.load(list(held.values())), result)
        return task

    def query_load_result(self, task_id: L2TaskId) -> Bitmap | None:
        """Which objects were loaded, once."""
        return self._loads.take(task_id)

    def delete(self, keys: list[ObjectKey]) -> None:
        """Delete objects from nodes, in the layouts that this process has seen; returns when it is done."""
        asked = {key: self._seen.layouts(key) for key in keys}
        try:
            gone = self._running.submit(lambda storage: storage.delete(asked)).result()
        except KvquiltError as error:
            log.warning("%d objects were not deleted: %s", len(keys), error)
            return
        if gone:
            self._notify_keys_deleted(gone, [self._seen.forget_size(key) for key in gone])

    def report_status(self) -> dict[str, Any]:
        """Counters, and whether the adapter takes work. Nodes that do not answer are no fault of the server."""
        return {
            "type": "kvquilt",
            "is_healthy": self._running.alive,
            "store_bytes_waiting": self._waiting,
            "counters": self._counters.snapshot(),
        }

    def close(self) -> None:
        """End all tasks as failed. When it returns, no memory object is read or written any more."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:
            self._running.close()
        finally:
            for board in (self._stores, self._lookups, self._loads):
                board.close()

    def _begin(
        self,
        board: Board[Result],
        task: L2TaskId,
        work: Callable[[NodeStorage], Coroutine[Any, Any, Answer]],
        result: Callable[[Answer], Result],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin a task's work; in any case the task is completed afterwards."""

        def done(future: "Future[Answer]") -> None:
            outcome: Result | None = None
            try:
                ended()
                outcome = result(future.result())
            except CancelledError:
                log.debug("a task of LMCache was cut off: the adapter is closed")
            except BaseException as error:  # noqa: BLE001  whatever it was, LMCache waits for the task
                log.error("a task of LMCache failed: %r", error)
            finally:
                board.complete(task, outcome)

        try:
            future = self._running.submit(work)
        except KvquiltError:
            ended()
            board.complete(task, None)
            return
        future.add_done_callback(done)

    def _held(self, keys: Sequence[ObjectKey], objects: Sequence[MemoryObj]) -> dict[int, Held]:
        """Keys with their bytes by place; without objects whose memory cannot be seen."""
        held: dict[int, Held] = {}
        for place, (key, one) in enumerate(zip(keys, objects, strict=False)):
            try:
                layout, buffer = view_of(one)
            except KvquiltError as error:
                self._counters.add("refused")
                log.warning("an object is not stored or loaded: %s", error)
                continue
            self._seen.layout(key, layout, buffer.nbytes)
            held[place] = Held(key, layout, buffer)
        return held

    def _tell_stored(self, held: Sequence[Held], stored: Stored) -> list[int]:
        """Tell LMCache's listeners what was stored now; bytes that it takes."""
        sizes: Mapping[ObjectKey, int] = {held[at].key: size for at, size in stored.sizes.items() if size}
        if sizes:
            for key, size in sizes.items():
                self._seen.size(key, size)
            self._notify_keys_stored(list(sizes), list(sizes.values()))
        return list(sizes.values())


def _bitmap(size: int, places: Sequence[int]) -> Bitmap:
    bits = Bitmap(size)
    bits.batched_set(places)
    return bits
