"""Opens the store that the settings name."""

import asyncio

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.metrics.meter import NodeMeter
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.hurry import Hurry
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.metered import metered_index
from kvquilt_cache_node.store.observed import ObservedBlobs
from kvquilt_cache_node.store.opening_blobs import open_blobs
from kvquilt_cache_node.store.opening_index import open_index
from kvquilt_cache_node.store.opening_sealed import Sealing
from kvquilt_cache_node.store.opening_tiers import with_queue, with_tiers
from kvquilt_cache_node.store.repair import Repair
from kvquilt_cache_node.store.write_back import WriteBackBlobs
from kvquilt_cache_node.types import COUNTERS, Blobs
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import AuditsMeta, GateMeta, Meta, ProfileMeta
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.gate import audits_file
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_codec.tiers import Tier
from kvquilt_rpc.counters import Counters


async def describe(key: bytes, data: bytes) -> Meta:
    """The description of an object, a profile, a gate or audits from its own bytes, worked out in a thread.

    Raises:
        IntegrityError: damaged, or not the one of this key.
    """
    return await asyncio.to_thread(_described, key, data)


def _described(key: bytes, data: bytes) -> Meta:
    if not data.startswith(MAGIC):
        if audits_file.is_one(data):
            audits = audits_file.load(data, key.hex())
            return AuditsMeta(audits.model_fingerprint, audits.profile_digest)
        if gate_file.is_one(data):
            gate = gate_file.load(data, key.hex())
            return GateMeta(gate.model_fingerprint, gate.profile_digest)
        return ProfileMeta(profile_file.load(data, key.hex()).model_fingerprint)
    header = container.verify(data).header
    if catalog.key_of(header) != key:
        raise IntegrityError(f"expected the object of key {key.hex()[:16]}...; the container is another one")
    return catalog.from_header(header)


async def open_parts(
    settings: NodeSettings,
    counters: Counters | None = None,
    *,
    anew: bool = False,
    meter: NodeMeter | None = None,
    hurry: Hurry | None = None,
) -> tuple[Blobs, Index]:
    """Open the blobs and the index of the configured store as they are, with what waits in a queue before the blobs.

    Args:
        settings: of the node.
        counters: of the node, all of `COUNTERS`.
        anew: make the index anew: what it knew and the objects do not is lost. No other node may have it open.
        meter: told of what the store's medium and the index do.
        hurry: of the node; by default there is none before it ends.

    Raises:
        As `open_store`.
    """
    meter = meter or NodeMeter()
    blobs: Blobs = ObservedBlobs(await open_blobs(settings), Tier.STORE, meter)
    try:
        blobs = with_queue(blobs, settings, (counters or Counters(COUNTERS)).add, hurry or Hurry())
        return blobs, metered_index(await open_index(settings, anew=anew), meter)
    except BaseException:
        await blobs.close()
        raise


async def open_store(
    settings: NodeSettings,
    counters: Counters | None = None,
    meter: NodeMeter | None = None,
    hurry: Hurry | None = None,
) -> IndexedStore:
    """Open the configured store, with the tiers and the memory in front of it that it is to have.

    An index in SQLite is this process's alone, which may have died at any point: it and the blobs are brought in line.
    One in Redis other nodes may be using: its format is checked, `kvquilt repair` does the rest when it is asked to.

    Args:
        settings: of the node.
        counters: of the node, all of `COUNTERS`.
        meter: of the node.
        hurry: of the node; by default there is none before it ends.

    Raises:
        BadRequestError: settings that do not fit together, or of a package that is not installed.
        IntegrityError: the index is of a format that this version does not know.
        UnavailableError: its folder cannot be written, another process holds it, or its server refuses or is not there.
        DeadlineError: its server does not answer.
    """
    counters, meter = counters or Counters(COUNTERS), meter or NodeMeter()
    sealing = await Sealing.open(settings)
    try:
        blobs, index = await open_parts(settings, counters, meter=meter, hurry=hurry)
    except BaseException:
        await sealing.close()
        raise
    capacity, describing = int(settings.capacity), sealing.describing(describe)
    try:
        if settings.index == "sqlite":
            await Repair(blobs, index, capacity, describing, settings.rules.lifetimes).run()
        if isinstance(blobs, WriteBackBlobs):
            blobs.start()
        blobs = await with_tiers(blobs, index, settings, describing, counters.add, meter)
        meter.keys = sealing.counted
        return sealing.store(blobs, index, capacity, settings.rules)
    except BaseException:
        await sealing.close()
        await index.close()
        await blobs.close()
        raise
