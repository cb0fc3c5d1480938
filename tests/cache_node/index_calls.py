"""An index with one of everything, and all calls of it."""

from collections.abc import Awaitable, Callable

from kvquilt_cache_node.index_types import Index, Lease, Pin
from kvquilt_codec.catalog import GateMeta, ProfileMeta
from kvquilt_codec.errors import CapacityError, IntegrityError, PermissionDeniedError, UnavailableError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace
from kvquilt_codec.types import Level
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, MODEL, digest_of, fingerprint_of, key_of, meta_of


async def fill(index: Index) -> None:
    """One of everything."""
    await store(index, 50, 10, ProfileMeta(MODEL))
    await store(index, 51, 10, GateMeta(MODEL, key_of(50).hex()))
    await store(index, 52, 10, ProfileMeta(MODEL))
    form = StorageForm(Level.HIGH, key_of(50).hex())
    await store(index, 1, 10, meta_of("doc", chunk=1, form=form, fingerprints=[3]))
    await store(index, 4, 10, meta_of(chunk=4))
    await index.remove([key_of(4)])
    await index.release([key_of(4)])
    await store(index, 5, 10, meta_of("doc", chunk=5, ttl=1e6, renewed=True))
    await index.pin([key_of(5)], [], Pin(CAPACITY))
    await index.use([key_of(1)], lease=Lease(1e6, CAPACITY))
    await index.reserve(key_of(2), 10, CAPACITY, PUBLIC)


async def everything(index: Index) -> int:
    """Call whatever there is; the number of calls that were refused."""
    calls: list[Callable[[], Awaitable[object]]] = [
        lambda: index.find([key_of(1)]),
        lambda: index.find(),
        lambda: index.find_variants([digest_of(1)], MODEL, digest_of(0), 4),
        lambda: index.find_chunks([fingerprint_of(3)], MODEL, 4),
        lambda: index.trace([ChunkPlace(digest_of(1), digest_of(0)), ChunkPlace(digest_of(4), digest_of(0))], 4),
        lambda: index.profiles(),
        lambda: index.files(GateMeta(MODEL, key_of(50).hex())),
        lambda: index.sizes(),
        lambda: index.usage(CAPACITY),
        lambda: index.stored(key_of(1)),
        lambda: index.may_delete(key_of(1)),
        lambda: index.use([key_of(1), key_of(50)], ["doc", "other"]),
        lambda: index.use([key_of(1), key_of(5)], lease=Lease(1.0, CAPACITY)),
        lambda: index.pin([key_of(1)], ["doc"], Pin(CAPACITY, seconds=1.0, expiring=True)),
        lambda: index.unpin([key_of(1)], ["doc"]),
        lambda: index.overdue(8),
        lambda: index.is_gone(key_of(4)),
        lambda: index.deleted([key_of(4)]),
        lambda: index.usage_by_namespace(),
        lambda: index.add_documents(key_of(1), ["doc", "third"], PUBLIC),
        lambda: index.commit(key_of(2), 10, meta_of("doc", chunk=1)),
        lambda: index.reserve(key_of(3), CAPACITY - 20, CAPACITY),
        lambda: index.commit(key_of(3), CAPACITY - 20, meta_of("doc", chunk=1)),
        lambda: index.remove([key_of(1)], ["doc", "other"]),
        lambda: index.remove_namespace(PUBLIC),
        lambda: index.release([key_of(1), key_of(3)]),
    ]
    refused = 0
    for call in calls:
        try:
            await call()
        except (IntegrityError, CapacityError, UnavailableError, PermissionDeniedError):
            refused += 1
    return refused
