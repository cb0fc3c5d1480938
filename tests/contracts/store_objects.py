"""Numbered objects and a clock for the contract of stores."""

import itertools
from collections.abc import Callable

from kvquilt_cache_node.types import Store
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.types import VariantKind

Clock = Callable[[], float]
CAPACITY = 1000


def key_of(number: int) -> bytes:
    """Key of a numbered object."""
    return number.to_bytes(32, "little")


def data_of(number: int, size: int) -> bytes:
    """Bytes of a numbered object; those of different objects differ in every place."""
    return bytes((number * 31 + place) % 256 for place in range(size))


def meta_of(*documents: str) -> ObjectMeta:
    """Description of an object that these documents hold."""
    return ObjectMeta("ab" * 32, documents, 17, VariantKind.BASE, LOSSLESS, 0.5)


def ticking() -> Clock:
    """A clock that is one second later at every call."""
    return itertools.count(1_000_000.0).__next__


async def keys_in(store: Store) -> list[int]:
    """Numbers of the objects in a store, the most recently used first."""
    return [int.from_bytes(info.key, "little") for info in await store.list()]


async def put(store: Store, number: int, size: int = 100, *documents: str) -> bool:
    """Put a numbered object."""
    return await store.put_if_absent(key_of(number), data_of(number, size), meta_of(*documents))


async def assert_sound(store: Store) -> None:
    """The cap holds, nothing is reserved, and every listed object can be read at its listed size."""
    usage, infos = await store.usage(), await store.list()
    assert usage.capacity_bytes == CAPACITY
    assert usage.used_bytes == sum(info.stored_bytes for info in infos) <= CAPACITY
    assert usage.objects == len(infos)
    for info in infos:
        (data,) = await store.get(info.key)
        assert data == data_of(int.from_bytes(info.key, "little"), info.stored_bytes)
