"""An index whose operations are measured."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.metrics.meter import NodeMeter

_OPERATIONS: Mapping[str, str] = {
    **dict.fromkeys(("stored", "find", "find_variants", "find_chunks", "trace", "profiles", "files"), "look_up"),
    **dict.fromkeys(("is_gone", "may_delete", "sizes"), "look_up"),
    **dict.fromkeys(("add_documents", "commit", "release", "deleted", "pin", "unpin"), "change"),
    **dict.fromkeys(("usage", "usage_by_namespace"), "usage"),
    "use": "use",
}
"""By the names of an index's methods; those that drop rows are `MeteredIndex`'s own."""


class MeteredIndex:
    """See `Index`; made by `metered_index`. What is not measured goes to the index itself."""

    def __init__(self, inner: Index, meter: NodeMeter) -> None:
        self._inner = inner
        self._meter = meter

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _OPERATIONS or not inspect.iscoroutinefunction(found):
            return found
        measured = self._measured(_OPERATIONS[name], found)
        setattr(self, name, measured)
        return measured

    def _measured(self, operation: str, work: Callable[..., Any]) -> Callable[..., Any]:
        async def measured(*args: Any, **named: Any) -> Any:
            with self._meter.operation("index", operation):
                return await work(*args, **named)

        return measured

    async def reserve(self, key: bytes, size: int, capacity: int, namespace: str = "") -> Sequence[bytes] | None:
        """See `Index.reserve`."""
        with self._meter.operation("index", "reserve"):
            victims = await self._inner.reserve(key, size, capacity, namespace)
        self._meter.removed("evicted", len(victims or ()))
        return victims

    async def remove(
        self, keys: Sequence[bytes], documents: Sequence[str] = (), namespace: str = "", reason: str = "forgotten"
    ) -> tuple[dict[bytes, int], int]:
        """See `Index.remove`."""
        with self._meter.operation("index", "change"):
            dropped, kept = await self._inner.remove(keys, documents, namespace, reason)
        self._meter.removed(reason, len(dropped))
        return dropped, kept

    async def remove_namespace(self, namespace: str) -> dict[bytes, int]:
        """See `Index.remove_namespace`."""
        with self._meter.operation("index", "change"):
            dropped = await self._inner.remove_namespace(namespace)
        self._meter.removed("forgotten", len(dropped))
        return dropped

    async def remove_lost(self, key: bytes, stored_at: float) -> bool:
        """See `Index.remove_lost`."""
        with self._meter.operation("index", "change"):
            lost = await self._inner.remove_lost(key, stored_at)
        self._meter.removed("lost", int(lost))
        return lost

    async def overdue(self, limit: int) -> Sequence[bytes]:
        """See `Index.overdue`."""
        before = self._inner.expired
        with self._meter.operation("index", "sweep"):
            keys = await self._inner.overdue(limit)
        self._meter.removed("expired", self._inner.expired - before)
        return keys


def metered_index(inner: Index, meter: NodeMeter) -> Index:
    """An index whose operations are measured."""
    return cast(Index, MeteredIndex(inner, meter))
