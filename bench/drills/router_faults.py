"""Faults behind a router that serves prompts: of one of its two nodes, and of the Redis that these share."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from drills.asking import DEADLINE
from drills.place import start
from drills.router_load import DEADLINES, RouterLoad
from drills.stage import Outcome, Stage
from drills.tiny_model import saved
from tests import servers

Parts = tuple[servers.Process, servers.Process]
"""One of the nodes, and Redis."""
Harm = Callable[[Stage, servers.Process], Awaitable[None]]


async def router_kill_node(stage: Stage) -> Outcome:
    """kill -9 of one of two nodes behind a router; it starts again."""
    return await _behind(stage, _killed, lambda parts: parts[0])


async def router_pause_node(stage: Stage) -> Outcome:
    """SIGSTOP of one of two nodes behind a router."""
    return await _behind(stage, _paused, lambda parts: parts[0])


async def router_kill_redis(stage: Stage) -> Outcome:
    """kill -9 of the Redis with objects and index of both nodes behind a router; it starts again."""
    return await _behind(stage, _killed, lambda parts: parts[1])


async def router_pause_redis(stage: Stage) -> Outcome:
    """SIGSTOP of it."""
    return await _behind(stage, _paused, lambda parts: parts[1])


async def _killed(stage: Stage, process: servers.Process) -> None:
    process.kill()
    await asyncio.sleep(stage.seconds / 2)
    await start(process)


async def _paused(_: Stage, process: servers.Process) -> None:
    process.pause()
    await asyncio.sleep(2 * DEADLINE)
    process.resume()


async def _behind(stage: Stage, harm: Harm, chosen: Callable[[Parts], servers.Process]) -> Outcome:
    place = stage.place
    server = place.valkey()
    nodes = [place.node(*place.redis_settings(server.url, shared=True)) for _ in range(2)]
    folder = place.folder / "model"
    model = await asyncio.to_thread(saved, folder)
    plain = ("router.ungated=true", "router.shared_store=true", "router.warm_up_passages=0", "router.chunk_tokens=64")
    _, target = place.router(folder, *plain, *DEADLINES, "router.health_seconds=0.5", "router.threads=1")
    load = RouterLoad(target, model, stage.seed)

    async def fault(load: RouterLoad) -> float:
        await load.next("blend")
        await harm(stage, chosen((nodes[0], server.process)))
        return await load.recovery(0)

    outcome = await stage.play_with(load, fault)
    return replace(outcome, how=f"largest difference from a full prefill {load.difference:.1e}")
