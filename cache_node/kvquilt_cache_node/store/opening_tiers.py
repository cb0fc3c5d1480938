"""Puts the tiers that the settings name around a store's blobs."""

from random import Random

from kvquilt_cache_node.eviction import DEFAULT, EvictionPolicy, make_policy
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.hot import Count, HotBlobs
from kvquilt_cache_node.store.hot_first import HotFirstBlobs
from kvquilt_cache_node.store.hot_tier import HotTier
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.store.observed import ObservedBlobs
from kvquilt_cache_node.store.opening_blobs import not_installed
from kvquilt_cache_node.store.queue_files import QueueFiles
from kvquilt_cache_node.store.tiered import Check, TieredBlobs
from kvquilt_cache_node.store.write_back import WriteBackBlobs
from kvquilt_cache_node.store.write_queue import WriteQueue
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.tiers import Tier


def with_queue(cold: Blobs, settings: NodeSettings, count: Count, hurry: Hurry) -> Blobs:
    """The blobs of a store behind a write queue, if it is to have one, or left one behind that is not empty.

    Raises:
        IntegrityError: the queue is of a later format.
        UnavailableError: another process holds it, or it cannot be written.
    """
    wanted = settings.write_mode == "back"
    if not wanted and not any((settings.queue_folder / "entries").glob("*")):
        return cold
    files = QueueFiles(settings.queue_folder, fsync=settings.fsync)
    try:
        queue = WriteQueue(files, int(settings.queue_bytes) if wanted else 0, settings.queue_entries, count)
    except BaseException:
        files.close()
        raise
    return WriteBackBlobs(cold, queue, count, drain_seconds=settings.drain_seconds, hurry=hurry)


async def with_tiers(
    blobs: Blobs, index: Index, settings: NodeSettings, check: Check, count: Count, meter: NodeMeter
) -> Blobs:
    """Blobs that are in line with their index behind a hot tier and memory, as far as they are to have them.

    Raises:
        BadRequestError: settings of a package that is not installed.
        UnavailableError: the hot tier's folder cannot be written or is held by another process; its server refuses.
    """
    if settings.hot_store != "none":
        capacity = int(settings.hot_capacity)
        medium = ObservedBlobs(await _hot_medium(settings), Tier.HOT, meter)
        policy = _policy(settings.hot_eviction, capacity)
        hot = HotTier(medium, capacity, policy, count, timeout=settings.hot_timeout)
        try:
            await hot.open(index.sizes)
        except BaseException:
            await hot.close()
            raise
        blobs = HotFirstBlobs(blobs, hot, index.stored, check, count)
    if memory := settings.memory_tier:
        blobs = TieredBlobs(blobs, HotBlobs(memory, _policy(DEFAULT, memory), count), index.stored, check, count)
    return blobs


def _policy(name: str, capacity: int) -> EvictionPolicy:
    return make_policy(name, capacity, Random())  # noqa: S311  draws victims, not secrets


async def _hot_medium(settings: NodeSettings) -> Blobs:
    if settings.hot_store == "memory":
        return MemoryBlobs()
    if settings.hot_store == "file":
        return FileBlobs(settings.hot_folder, fsync=False)  # a copy that a power cut spoils proves it
    try:
        from kvquilt_cache_node.store.opening_redis import hot_client
        from kvquilt_cache_node.store.redis_blobs import RedisBlobs
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.hot_store", "redis") from None
    client = hot_client(settings)
    try:
        return RedisBlobs(client, settings.hot_redis_prefix)
    except BaseException:
        await client.close()
        raise
