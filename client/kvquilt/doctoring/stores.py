"""The stores of this machine's node: reached, with the rights that it needs, set so that they keep what they get."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvquilt.checks import Finding, Outcome, SkippedError, judged, promise
from kvquilt.doctoring.types import Part, Patient
from kvquilt_cache_node.redis_url import RedisMode, RedisUrl
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.opening_blobs import not_installed
from kvquilt_codec.errors import KvquiltError

if TYPE_CHECKING:
    from kvquilt_cache_node.store.object_probe import ObjectFacts
    from kvquilt_cache_node.store.redis_client import RedisClient

_SPARE = 1.25
"""Of the capacity: what `maxmemory` should be at least, for writes under way."""


def node_redis(patient: Patient) -> "Iterator[tuple[str, RedisUrl, RedisClient]]":
    """What each Redis of the node is for ("store" or "hot"), its URL, and a client, which whoever takes it closes.

    Raises:
        SkippedError: there is none.
        BadRequestError: the package is not installed, or certificates that cannot be read.
    """
    node = patient.node
    store = node.redis_url if "redis" in (node.store, node.index) else None
    hot = (node.hot_redis_url or node.redis_url) if node.hot_store == "redis" else None
    found = [(use, url) for use, url in (("store", store), ("hot", hot)) if url is not None]
    if Part.NODE not in patient.parts or not found:
        raise SkippedError("the node keeps nothing in Redis")
    try:
        from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.store", "redis") from None
    options = RedisOptions(2, patient.patience, node.redis_ca, node.redis_certificate, node.redis_key)
    for use, secret in found:
        url = RedisUrl.parse(secret.get_secret_value())
        yield use, url, RedisClient(url, options)


async def redis_rights(patient: Patient) -> Finding:
    """Redis is reached, takes the credentials, and lets the node call every command that it needs."""
    wrong, good = [], []
    for use, url, client in node_redis(patient):
        from kvquilt_cache_node.store.redis_rights import denied

        hot = use == "hot"
        prefix = patient.node.hot_redis_prefix if hot else patient.node.redis_prefix
        index = patient.node.index == "redis" and not hot
        try:
            missing = await denied(client, prefix, cluster=url.mode is RedisMode.CLUSTER, index=index)
        except KvquiltError as error:
            wrong.append(f"{use}: {error.reason}: {error}")
            continue
        finally:
            await client.close()
        if missing:
            wrong.append(f"{use} at {url.where}: the user has no right to {' '.join(missing)}")
        else:
            good.append(f"{use} at {url.where}")
    advice = "ACL SETUSER USER with what is missing; docs/stores.md, Redis and Valkey, has the whole line"
    return judged(not wrong, promise(redis_rights), "; ".join(wrong or good), advice)


async def redis_settings(patient: Patient) -> Finding:
    """Redis evicts nothing by itself, has room for the cap, and what it keeps through a restart is known."""
    wrong, told = [], []
    for use, url, client in node_redis(patient):
        from kvquilt_cache_node.store.redis_rights import facts

        try:
            memory, kept = await facts(client, "memory"), await facts(client, "persistence")
        except KvquiltError as error:
            raise SkippedError(f"{use} at {url.where}: {error}", "let the user call +info") from None
        finally:
            await client.close()
        policy, limit = memory.get("maxmemory_policy", ""), int(memory.get("maxmemory", 0))
        told.append(f"{use}: maxmemory {limit or 'unlimited'}, {policy}, {_persistence(kept)}")
        if use == "hot":
            continue
        if policy.startswith("allkeys") or (policy != "noeviction" and patient.node.store == "redis"):
            wrong.append(f"{use}: maxmemory-policy is {policy}: parts of objects would vanish")
        if patient.node.store == "redis" and 0 < limit < patient.node.capacity * _SPARE:
            least = int(patient.node.capacity * _SPARE)
            wrong.append(f"{use}: maxmemory is {limit}, less than node.capacity and a quarter ({least})")
    advice = "CONFIG SET maxmemory-policy noeviction; raise maxmemory, or lower node.capacity"
    return judged(not wrong, promise(redis_settings), "; ".join([*wrong, *told]), advice)


def _persistence(kept: dict[str, str]) -> str:
    if kept.get("aof_enabled") == "1":
        return "writes are appended to a file (appendonly)"
    if int(kept.get("rdb_last_save_time", 0)) and kept.get("rdb_saves", "0") != "0":
        return "it saves snapshots; what came after the last one is lost with a restart"
    return "NOTHING SURVIVES A RESTART of it, unless it is set to save snapshots"


async def object_storage(patient: Patient) -> Finding:
    """The bucket lets the node put, read, list and delete."""
    node = patient.node
    if Part.NODE not in patient.parts or node.store != "object":
        raise SkippedError("the node keeps nothing in object storage")
    found = await _probed(node, patient.patience)
    said = [f"{what}: {why}" for what, why in found.refused.items()]
    if found.left:
        said.append(f"the object {found.left} was left behind")
    if found.mixes:
        said.append("reads that must be of one version (If-Match) are answered whatever the version")
    expected = promise(object_storage)
    if said:
        advice = "let the identity put, get, list and delete below the prefix (docs/stores.md, Object storage)"
        return Finding(Outcome.FAILED, expected, "; ".join(said), advice)
    more = "puts that must create do not replace" if found.creates else "puts that must create REPLACE (not needed)"
    if found.versioned:
        got = f"it does; but it keeps versions: what is forgotten stays in the bucket ({more})"
        advice = "suspend versioning, or let a rule expire older versions; or encrypt (node.encryption_key_file)"
        return Finding(Outcome.WARNED, expected, got, advice)
    return Finding(Outcome.PASSED, expected, f"it does; nothing is kept of what is deleted; {more}")


async def _probed(node: NodeSettings, patience: float) -> "ObjectFacts":
    try:
        from kvquilt_cache_node.store.object_blobs import ObjectOptions, open_object_store
        from kvquilt_cache_node.store.object_probe import probed
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.store", "object") from None
    secret = None if node.object_secret is None else node.object_secret.get_secret_value()
    options = ObjectOptions(node.object_endpoint, node.object_key_id, secret, patience, 1)
    return await probed(open_object_store(node.object_url or "", options))
