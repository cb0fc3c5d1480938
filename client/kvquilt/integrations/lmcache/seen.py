"""What an adapter remembers of LMCache's objects: their layouts, and the sizes of those that it stored. Bounded."""

import threading
from collections import OrderedDict

from kvquilt.integrations.lmcache.identity import Layout, LMCacheKey

_GROUPS = 4096
_LAYOUTS = 16
"""Of each group."""
_SIZES = 1 << 16


class Seen:
    """Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._layouts: OrderedDict[tuple[str, int, int], dict[tuple[Layout, int], None]] = OrderedDict()
        self._sizes: OrderedDict[LMCacheKey, int] = OrderedDict()

    def layout(self, key: LMCacheKey, layout: Layout, nbytes: int) -> None:
        """Objects of this key's model, rank and group may have this layout and size."""
        with self._lock:
            known = self._layouts.setdefault(_group(key), {})
            if len(known) < _LAYOUTS:
                known[layout, nbytes] = None
            self._layouts.move_to_end(_group(key))
            if len(self._layouts) > _GROUPS:
                self._layouts.popitem(last=False)

    def layouts(self, key: LMCacheKey) -> list[tuple[Layout, int]]:
        """Layouts and sizes that such objects had."""
        with self._lock:
            return list(self._layouts.get(_group(key), ()))

    def size(self, key: LMCacheKey, nbytes: int) -> None:
        """An object was stored, and takes so many bytes."""
        with self._lock:
            self._sizes[key] = nbytes
            if len(self._sizes) > _SIZES:
                self._sizes.popitem(last=False)

    def forget_size(self, key: LMCacheKey) -> int:
        """Bytes that an object took which is gone; 0 if it is not known."""
        with self._lock:
            return self._sizes.pop(key, 0)


def _group(key: LMCacheKey) -> tuple[str, int, int]:
    return key.model_name, key.kv_rank, key.object_group_id
