"""Redis servers that die for good: a replica takes over."""

import asyncio
import time
from collections.abc import Callable

from drills.asking import RECOVERY_LIMIT
from drills.load import Load
from drills.place import start
from drills.stage import FILLED, Outcome, Stage
from tests import servers


async def cluster_failover(stage: Stage) -> Outcome:
    """kill -9 of a primary of a Cluster of six; its replica takes over; the dead one starts again.

    Recovery is from the kill, of objects on all primaries.
    """
    cluster = stage.place.valkey_cluster(replicas=True)
    stage.place.node(*stage.place.redis_settings(servers.cluster_url(cluster)))
    return await _failed_over(stage, cluster[0], cluster[3])


async def sentinel_failover(stage: Stage) -> Outcome:
    """kill -9 of a primary that a Sentinel watches; its replica takes over; the dead one starts again.

    Objects and index of two nodes are in it. Recovery is from the kill.
    """
    place = stage.place
    first = place.valkey()
    second = place.valkey("--replicaof", f"{servers.HOST} {first.port}")
    port = place.stack.enter_context(servers.sentinel(place.folder / "sentinel", first))
    settings = place.redis_settings(f"redis+sentinel://{servers.HOST}:{port}/kvquilt", shared=True)
    for _ in range(2):
        place.node(*settings)
    await _until(second.is_replica_in_sync, "the replica to follow")
    await _until(lambda: f"port={second.port}" in first.command("INFO", "replication"), "the primary to know it")
    await asyncio.sleep(2)  # until the Sentinel has asked the primary for its replicas, which it tells nobody
    return await _failed_over(stage, first, second)


async def _failed_over(stage: Stage, primary: servers.RedisServer, replica: servers.RedisServer) -> Outcome:
    killed = 0.0

    async def fault(load: Load) -> float:
        nonlocal killed
        await load.amid("put")
        primary.process.kill()
        killed = time.monotonic()
        for number in range(FILLED):
            for node in range(len(load.nodes)):
                await load.recovery(number, node)
        recovery = time.monotonic() - killed
        if "role:master" not in replica.command("INFO", "replication"):
            raise RuntimeError("expected the replica to take over; it did not")
        await start(primary.process)
        return recovery

    return await stage.play(fault)


async def _until(done: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + RECOVERY_LIMIT
    while not await asyncio.to_thread(done):
        if time.monotonic() > give_up:
            raise RuntimeError(f"expected {what}; it did not")
        await asyncio.sleep(0.05)
