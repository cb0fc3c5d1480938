"""The anchor pools of all namespaces, under one limit of memory: no tenant's offsets are added to another's texts."""

import threading
from collections import OrderedDict

from kvquilt_router.policies.anchor_pool import AnchorPool


class AnchorPools:
    """A pool for each namespace; the one that learned the longest ago makes room first.

    Pools are made in the event loop and learn in the engine's thread.

    Args:
        capacity_bytes: most memory of all anchors together.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self._capacity = capacity_bytes
        self._pools: OrderedDict[str, AnchorPool] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, namespace: str) -> AnchorPool:
        """The pool of a namespace."""
        with self._lock:
            if namespace not in self._pools:
                pool = AnchorPool(self._capacity, learned=lambda: self._learned(namespace))
                self._pools[namespace] = pool
            return self._pools[namespace]

    def forget(self, namespace: str) -> None:
        """Drop a namespace's pool; a blend that runs keeps what it has."""
        with self._lock:
            self._pools.pop(namespace, None)

    def _learned(self, namespace: str) -> None:
        with self._lock:
            if namespace not in self._pools:
                return
            self._pools.move_to_end(namespace)
            total = sum(anchor.nbytes for pool in self._pools.values() for anchor in pool.anchors)
            for other, pool in self._pools.items():
                while total > self._capacity and pool.anchors and other != namespace:
                    total -= pool.anchors.pop(0).nbytes
