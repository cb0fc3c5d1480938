"""Faults around the write queue, and of a node that starts without the key that its objects are encrypted with."""

import asyncio
from dataclasses import replace

from drills.asking import DEADLINE
from drills.load import Load
from drills.place import start
from drills.stage import Outcome, Stage
from kvquilt_cache_node.store.master_keys import create_master_key
from tests import servers

BACK = ("node.write_mode=back",)
KEY = "node.encryption_key="


async def queue_store_down(stage: Stage) -> Outcome:
    """kill -9 of the Redis behind a write queue: puts go on from the queue, which is worked off when it is back."""
    server = stage.place.valkey()
    stage.place.node(*stage.place.redis_settings(server.url), *BACK)

    async def fault(load: Load) -> float:
        await load.amid("put")
        server.process.kill()
        queued = await _queued_anew(load, stage.seconds / 2)
        await start(server.process)
        stage.how = f"{queued} objects in the queue when the store came back"
        return max(await load.recovery(0), await load.until(lambda: _is_empty(load), "the queue to be worked off"))

    return await stage.play(fault)


async def queue_kill_node(stage: Stage) -> Outcome:
    """kill -9 of a node with objects in its queue, while its store is paused; the node starts again after that."""
    server = stage.place.valkey()
    node = stage.place.node(*stage.place.redis_settings(server.url), *BACK)

    async def fault(load: Load) -> float:
        await load.amid("put")
        server.process.pause()
        stage.how = f"{await _queued_anew(load, stage.seconds / 2)} objects in the queue when the node was killed"
        node.kill()
        server.process.resume()
        await start(node)
        return await load.recovery(0)

    return await stage.play(fault)


async def master_key_missing(stage: Stage) -> Outcome:
    """A node with encrypted objects is killed, and refuses to start without its key, and with another; then with it."""
    node = stage.place.node(KEY + create_master_key())

    async def fault(load: Load) -> float:
        await load.amid("put")
        node.kill()
        at = next(place for place, word in enumerate(node.arguments) if word.startswith(KEY))
        without = [*node.arguments[: at - 1], *node.arguments[at + 1 :]]
        another = [*node.arguments[:at], KEY + create_master_key(), *node.arguments[at + 1 :]]
        for arguments, said in ((without, "encrypt"), (another, "key")):
            if problem := await asyncio.to_thread(_refusal_problem, replace(node, arguments=arguments), said):
                load.failed.append(problem)
        await start(node)
        return await load.recovery(0)

    return await stage.play(fault)


def _refusal_problem(process: servers.Process, said: str) -> str:
    """What is wrong with how a node ends that must not start; empty if it says why."""
    try:
        process.start()
    except RuntimeError as error:
        if said in str(error) and "Traceback" not in str(error):
            return ""
        return f"expected the node to say what is wrong with its key; {error}"
    process.kill()
    return "expected the node to refuse its start; it serves"


async def _queued_anew(load: Load, seconds: float) -> int:
    """How many objects are in the queue, at least one, after so long."""
    await asyncio.sleep(seconds)
    await load.until(lambda: _holds_some(load), "puts to be queued")
    return await _entries(load)


async def _entries(load: Load) -> int:
    return (await load.nodes[0].status(deadline=5 * DEADLINE)).counters["queue_entries"]


async def _holds_some(load: Load) -> bool:
    return await _entries(load) > 0


async def _is_empty(load: Load) -> bool:
    return await _entries(load) == 0
