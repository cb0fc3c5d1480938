"""Faults of the servers that nodes store in, and of everything at once."""

import asyncio

from drills.asking import DEADLINE
from drills.load import Load
from drills.place import start
from drills.stage import FILLED, Outcome, Stage
from tests import servers


async def kill_redis(stage: Stage) -> Outcome:
    """kill -9 of the Redis that a node stores in; it starts again and has what it acknowledged (appendonly)."""
    server = stage.place.valkey()
    stage.place.node(*stage.place.redis_settings(server.url))
    return await _killed(stage, server.process)


async def pause_redis(stage: Stage) -> Outcome:
    """SIGSTOP of the Redis that a node stores in, for twice as long as a request may take."""
    server = stage.place.valkey()
    stage.place.node(*stage.place.redis_settings(server.url))

    async def fault(load: Load) -> float:
        await load.amid("get")
        server.process.pause()
        await asyncio.sleep(2 * DEADLINE)
        server.process.resume()
        return await load.recovery(0)

    return await stage.play(fault)


async def kill_cluster_primary(stage: Stage) -> Outcome:
    """kill -9 of one of the three primaries of a Cluster; it starts again. Recovery is of objects of all primaries."""
    cluster = stage.place.valkey_cluster()
    stage.place.node(*stage.place.redis_settings(servers.cluster_url(cluster)))

    async def fault(load: Load) -> float:
        await load.amid("put")
        cluster[0].process.kill()
        await asyncio.sleep(stage.seconds / 2)
        await start(cluster[0].process)
        return sum([await load.recovery(number) for number in range(FILLED)])

    return await stage.play(fault)


async def kill_s3(stage: Stage) -> Outcome:
    """kill -9 of the S3 service that a node stores in; it starts again."""
    server = stage.place.s3()
    stage.place.node(*stage.place.s3_settings(server))
    return await _killed(stage, server.process)


async def _killed(stage: Stage, server: servers.Process) -> Outcome:
    async def fault(load: Load) -> float:
        await load.amid("put")
        server.kill()
        await asyncio.sleep(stage.seconds / 2)
        await start(server)
        return await load.recovery(0)

    return await stage.play(fault)


async def restart_everything(stage: Stage) -> Outcome:
    """kill -9 of two nodes and of the Redis that holds their objects and index; all start again."""
    server = stage.place.valkey()
    nodes = [stage.place.node(*stage.place.redis_settings(server.url, shared=True)) for _ in range(2)]

    async def fault(load: Load) -> float:
        await load.amid("put")
        for process in (server.process, *nodes):
            process.kill()
        await start(server.process, *nodes)
        return max([await load.recovery(0, node) for node in range(2)])

    return await stage.play(fault)
