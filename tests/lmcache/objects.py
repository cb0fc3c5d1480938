"""LMCache's keys and memory objects, as its server makes them, and an adapter that is called as its controllers do."""

import contextlib
import math
import select
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from lmcache.v1.distributed.api import MemoryLayoutDesc, ObjectKey
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.platform import consume_fd

from kvquilt.integrations.lmcache import KvquiltL2Adapter, KvquiltL2AdapterConfig

Shapes = Sequence[tuple[torch.dtype, tuple[int, ...]]]
KV: Shapes = ((torch.bfloat16, (2, 3, 32, 24)),)
"""Keys and values of three layers, 32 tokens, small."""
SECONDS = 120.0


def key(chunk: int, salt: str = "", model: str = "a/model", rank: int = 0x01000100, group: int = 0) -> ObjectKey:
    """A key as the server makes them."""
    return ObjectKey(chunk.to_bytes(32, "big"), model, rank, group, salt)


def memory(shapes: Shapes = KV, seed: int | None = None) -> TensorMemoryObj:
    """A memory object: normally distributed numbers, or any bits; without a seed zeros."""
    size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in shapes)
    raw = torch.zeros(size, dtype=torch.uint8)
    if seed is not None:
        random = torch.Generator().manual_seed(seed)
        begin = 0
        for dtype, shape in shapes:
            count = math.prod(shape)
            if dtype in (torch.bfloat16, torch.float16, torch.float32):
                values = torch.randn(count, generator=random).to(dtype).view(torch.uint8)
            else:
                values = torch.randint(0, 256, (count * dtype.itemsize,), generator=random, dtype=torch.uint8)
            raw[begin : begin + len(values)] = values
            begin += len(values)
    meta = MemoryObjMetadata(
        shape=torch.Size(shapes[0][1]),
        dtype=shapes[0][0],
        address=0,
        phy_size=size,
        ref_count=1,
        fmt=MemoryFormat.KV_2LTD,
        shapes=[torch.Size(shape) for _, shape in shapes],
        dtypes=[dtype for dtype, _ in shapes],
    )
    return TensorMemoryObj(raw_data=raw, metadata=meta, parent_allocator=None)


def content(one: TensorMemoryObj) -> bytes:
    """Bytes of a memory object."""
    return bytes(one.byte_array)


def described(shapes: Shapes = KV) -> dict[int, MemoryLayoutDesc]:
    """What a look-up is told of layouts."""
    return {0: MemoryLayoutDesc([torch.Size(shape) for _, shape in shapes], [dtype for dtype, _ in shapes])}


class Caller:
    """Calls an adapter as LMCache's controllers do: submits, waits for the event, takes the result."""

    def __init__(self, adapter: KvquiltL2Adapter) -> None:
        self.adapter = adapter

    def store(self, keys: Sequence[ObjectKey], objects: Sequence[TensorMemoryObj]) -> int:
        """Bytes that were stored; -1: the task failed."""
        task = self.adapter.submit_store_task(list(keys), list(objects))
        done: dict[int, Any] = {}
        while task not in done:
            self._wait(self.adapter.get_store_event_fd())
            done |= self.adapter.pop_completed_store_tasks()
        return int(done[task])

    def lookup(self, keys: Sequence[ObjectKey], shapes: Shapes = KV) -> list[int]:
        """Places of the objects that were found."""
        task = self.adapter.submit_lookup_and_lock_task(list(keys), described(shapes))
        return self._bits(self.adapter.get_lookup_and_lock_event_fd(), self.adapter.query_lookup_and_lock_result, task)

    def load(self, keys: Sequence[ObjectKey], objects: Sequence[TensorMemoryObj]) -> list[int]:
        """Places of the objects that were loaded."""
        task = self.adapter.submit_load_task(list(keys), list(objects))
        loaded = self._bits(self.adapter.get_load_event_fd(), self.adapter.query_load_result, task)
        self.adapter.submit_unlock(list(keys))
        return loaded

    @property
    def counters(self) -> dict[str, int]:
        """Of the adapter."""
        return self.adapter.report_status()["counters"]

    def _bits(self, fd: int, query: Any, task: int) -> list[int]:
        while (result := query(task)) is None:
            self._wait(fd)
        assert query(task) is None, "a result is given once"
        return result.get_indices_list()

    @staticmethod
    def _wait(fd: int) -> None:
        ready, _, _ = select.select([fd], [], [], SECONDS)
        assert ready, "the task was not completed"
        consume_fd(fd)


@contextmanager
def calling(*nodes: str, **parameters: object) -> Iterator[Caller]:
    """An adapter of these nodes, made as the plug-in's factory makes it."""
    config = KvquiltL2AdapterConfig.from_dict({"nodes": list(nodes), **parameters})
    with contextlib.closing(KvquiltL2Adapter(config)) as adapter:
        yield Caller(adapter)
