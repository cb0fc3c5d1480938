"""Who goes to make room: a policy's choice among all objects, or among those of a namespace above its share."""

from collections.abc import Callable, Mapping
from typing import Protocol, cast

from kvquilt_cache_node.eviction import Entry, EvictionPolicy
from kvquilt_cache_node.eviction.quotas import DEFAULT_NAMESPACE, Quota, Quotas

Victim = Callable[[Quotas], str | None]
"""Whose object goes, by the quotas; `None`: nobody's may."""


class Room(Protocol):
    """The policies of a store, told of every object with its namespace."""

    @property
    def quotas(self) -> Quotas | None:
        """`None`: there are none."""

    def insert(self, key: bytes, entry: Entry, namespace: str) -> None:
        """See `EvictionPolicy.insert`."""

    def use(self, key: bytes) -> None:
        """See `EvictionPolicy.use`; nothing happens if it is not there."""

    def remove(self, key: bytes) -> None:
        """See `EvictionPolicy.remove`."""

    def evict(self, victim: Victim) -> tuple[bytes, str] | None:
        """Choose an object and take it away; returns it and its namespace where that matters, `None` if none may go.

        Raises:
            KeyError: the namespace that is chosen, or all, have none left here.
        """


class OneRoom:
    """All namespaces share a policy, and have no quotas."""

    quotas = None

    def __init__(self, policy: EvictionPolicy) -> None:
        self._policy = policy

    def insert(self, key: bytes, entry: Entry, namespace: str) -> None:  # noqa: ARG002
        """See `Room`."""
        self._policy.insert(key, entry)

    def use(self, key: bytes) -> None:
        """See `Room`."""
        if key in self._policy:
            self._policy.use(key)

    def remove(self, key: bytes) -> None:
        """See `Room`."""
        self._policy.remove(key)

    def evict(self, victim: Victim) -> tuple[bytes, str]:  # noqa: ARG002
        """See `Room`."""
        return cast(bytes, self._policy.evict()), ""


class Shares:
    """Each namespace has a policy of its own.

    Args:
        quotas: see there.
        make: makes a policy for so many bytes.
        capacity: bytes of the store.
    """

    def __init__(self, quotas: Quotas, make: Callable[[int], EvictionPolicy], capacity: int) -> None:
        self.quotas = quotas
        self._make = make
        self._capacity = capacity
        self._policies: dict[str, EvictionPolicy] = {}
        self._owners: dict[bytes, str] = {}

    def insert(self, key: bytes, entry: Entry, namespace: str) -> None:
        """See `Room`."""
        if namespace not in self._policies:
            self._policies[namespace] = self._make(expected(self.quotas, namespace, self._capacity))
        self._policies[namespace].insert(key, entry)
        self._owners[key] = namespace

    def use(self, key: bytes) -> None:
        """See `Room`."""
        if (owner := self._owners.get(key)) is not None:
            self._policies[owner].use(key)

    def remove(self, key: bytes) -> None:
        """See `Room`."""
        if (owner := self._owners.pop(key, None)) is not None:
            self._policies[owner].remove(key)
            self._drop_if_empty(owner)

    def evict(self, victim: Victim) -> tuple[bytes, str] | None:
        """See `Room`."""
        owner = victim(self.quotas)
        if owner is None:
            return None
        key = cast(bytes, self._policies[owner].evict())
        del self._owners[key]
        return key, owner

    def _drop_if_empty(self, owner: str) -> None:
        # Not when the last one is evicted: what a policy has learned of objects that went is worth keeping then.
        if not len(self._policies[owner]):
            del self._policies[owner]


def expected(quotas: Quotas, namespace: str, capacity: int) -> int:
    """Bytes that a namespace comes to if all that are named, and one that is not, fill a store."""
    all_of: Mapping[str, Quota] = {**quotas.named, DEFAULT_NAMESPACE: quotas.default}
    own = quotas.of(namespace)
    beyond = max(0, capacity - sum(quota.floor for quota in all_of.values()))
    share = own.floor + int(beyond * own.share / sum(quota.share for quota in all_of.values()))
    return max(1, min(share, capacity if own.cap is None else own.cap))
