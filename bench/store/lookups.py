"""Round trips that a look-up of 100 chunks takes, counted by those that are asked."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from redis.asyncio import Redis

from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, open_nodes
from store.objects import Made, small
from store.stage import TIMEOUT, Stage
from tests.codec.samples import FINGERPRINT, PREFIX

COUNT = 100
NODES = 3


async def _calls(addresses: Sequence[str]) -> list[int]:
    """Look-ups that each node has answered."""
    found = []
    for address in addresses:
        client = NodeClient(address)
        found.append((await client.status(deadline=TIMEOUT)).counters["lookups"])
        await client.close()
    return found


async def _requests(server: Redis) -> int:
    """Requests that Redis has read from its connections; this one is not counted before the next."""
    return (await server.info("stats"))["total_reads_processed"]


async def round_trips(stage: Stage) -> list[dict[str, Any]]:
    """Rows: which look-up, of how many nodes with which index, calls of each node, requests to Redis."""
    objects = small(COUNT)
    rows = []
    async with Redis(host="127.0.0.1", port=stage.valkey.port, protocol=2) as server:
        for index, count in (("sqlite", 1), ("redis", 1), ("sqlite", NODES)):
            shared = ("node.index=redis", "node.eviction=gdsf") if index == "redis" else ()
            addresses = [stage.node(*shared, on_redis=index == "redis").address for _ in range(count)]
            async with open_nodes(addresses) as nodes:
                for made in objects:
                    await nodes.put(made.key, made.data, made.meta, deadline=TIMEOUT)
                for name, look_up in _look_ups(nodes, objects).items():
                    await look_up()
                    calls, requests = await _calls(addresses), await _requests(server)
                    found = await look_up()
                    asked = await _requests(server) - requests - 1
                    made_calls = [now - then for now, then in zip(await _calls(addresses), calls, strict=True)]
                    if found != COUNT:
                        raise RuntimeError(f"expected {name} to find {COUNT} chunks; it found {found}")
                    rows.append(
                        {
                            "look_up": f"{name} of {COUNT}",
                            "nodes": count,
                            "index": index,
                            "calls_of_each_node": made_calls,
                            "requests_to_redis": asked,
                        }
                    )
    return rows


def _look_ups(nodes: CacheNodes, objects: Sequence[Made]) -> dict[str, Callable[[], Awaitable[int]]]:
    """Both kinds of look-up; they return how many chunks they found."""

    async def stat() -> int:
        refs = [ObjectRef(made.key, made.meta.chunk_key) for made in objects]
        return len(await nodes.stat(refs, deadline=TIMEOUT))

    async def find_variants() -> int:
        chunks = [made.meta.chunk_key for made in objects]
        return len((await nodes.find_variants(chunks, FINGERPRINT, PREFIX, deadline=TIMEOUT)).objects)

    return {"StatChunks": stat, "FindVariants": find_variants}
