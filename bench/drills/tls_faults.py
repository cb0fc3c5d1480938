"""Faults where all is encrypted (see `secured`): crashes, and certificates that are replaced or expire."""

import asyncio
from datetime import UTC, datetime, timedelta

from drills.asking import DEADLINE
from drills.load import Load
from drills.place import start
from drills.secured import Secured
from drills.stage import Outcome, Stage


async def tls_crashes(stage: Stage) -> Outcome:
    """kill -9 of the node, SIGSTOP and kill -9 of its Redis, with TLS, client certificates and tokens."""
    secured = Secured.made(stage.place)

    async def fault(load: Load) -> float:
        await load.amid("get")
        secured.node.kill()
        await start(secured.node)
        slowest = await load.recovery(0)
        secured.redis.process.pause()
        await asyncio.sleep(2 * DEADLINE)
        secured.redis.process.resume()
        slowest = max(slowest, await load.recovery(0))
        await load.amid("put")
        secured.redis.process.kill()
        await asyncio.sleep(stage.seconds / 4)
        await start(secured.redis.process)
        return max(slowest, await load.recovery(0))

    return await stage.play(fault)


async def tls_certificates_replaced(stage: Stage) -> Outcome:
    """Node and Redis get new certificates while they run; all connections are made anew; 3 rounds."""
    secured = Secured.made(stage.place)
    names = iter(("second", "third", "fourth"))

    async def fault(load: Load) -> float:
        name = next(names)
        for server in secured.ports:
            await asyncio.to_thread(secured.renew, server, name)
        load.reconnect()
        return await load.recovery(0)

    return await stage.play(fault, rounds=3)


async def tls_certificates_expire(stage: Stage) -> Outcome:
    """The certificate of Redis, then that of the node expires; new connections fail; it is replaced while both run."""
    secured = Secured.made(stage.place)

    async def fault(load: Load) -> float:
        slowest = 0.0
        for server, reason in (("redis", "store_refused"), ("node", "tls_handshake")):
            before = load.missed[reason]
            await asyncio.to_thread(secured.renew, server, "expired", datetime.now(UTC) - timedelta(hours=1))
            if server == "node":
                load.reconnect()
            await asyncio.sleep(stage.seconds / 2)
            if load.missed[reason] == before:
                raise RuntimeError(f"expected the expired certificate of {server} to be refused; it was not")
            await asyncio.to_thread(secured.renew, server, "valid")
            slowest = max(slowest, await load.recovery(0))
        return slowest

    return await stage.play(fault)
