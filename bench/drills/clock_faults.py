"""Wall clocks that jump under running processes: a day forward, then to an hour behind."""

import asyncio
import time

from drills.clocks import Clock
from drills.load import Load
from drills.stage import Outcome, Stage

DAY, HOUR = 86_400, 3_600


async def clock_jumps_of_a_node(stage: Stage) -> Outcome:
    """The clock of a node with a file store jumps a day forward, then to an hour behind; it is killed and starts."""
    clock = Clock(stage.place.folder / "clock")
    node = stage.place.node(environment=clock.environment)

    async def fault(load: Load) -> float:
        slowest = await _jumps(stage, clock, load)
        await _shown(load, -HOUR)
        node.kill()
        await asyncio.to_thread(node.start)
        slowest = max(slowest, await load.recovery(0))
        clock.set(0)
        return max(slowest, await load.recovery(0))

    return await stage.play(fault)


async def clock_jumps_of_redis(stage: Stage) -> Outcome:
    """The clock of the Redis with objects and index of two nodes jumps, then that of one of the nodes."""
    clocks = [Clock(stage.place.folder / name) for name in ("clock-redis", "clock-node")]
    server = stage.place.valkey(environment=clocks[0].environment)
    settings = stage.place.redis_settings(server.url, shared=True)
    stage.place.node(*settings, environment=clocks[1].environment)
    stage.place.node(*settings)

    async def fault(load: Load) -> float:
        slowest = await _jumps(stage, clocks[0], load)
        said = int(server.command("TIME").split()[2])
        if abs(said - (time.time() - HOUR)) > HOUR / 2:
            raise RuntimeError(f"expected the server's clock to be an hour behind; it says {said}")
        clocks[0].set(0)
        slowest = max(slowest, await _jumps(stage, clocks[1], load))
        clocks[1].set(0)
        return max([slowest, *[await load.recovery(0, node) for node in range(2)]])

    return await stage.play(fault)


async def _jumps(stage: Stage, clock: Clock, load: Load) -> float:
    slowest = 0.0
    for offset in (DAY, -HOUR):
        clock.set(offset)
        slowest = max([slowest, *[await load.recovery(0, node) for node in range(len(load.nodes))]])
        await asyncio.sleep(stage.seconds / 4)
    return slowest


async def _shown(load: Load, offset: float) -> None:
    """Make sure that a node's clock has jumped: a new object is as old as its clock says."""
    number = load.population
    await load.stored(number)
    created = await load.created(number)
    if abs(created - (time.time() + offset)) > HOUR / 2:
        raise RuntimeError(f"expected the node's clock to be {offset:g} s off; it stored something at {created:g}")
