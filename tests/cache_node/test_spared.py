"""A node process with more gets than it takes: most refusals are made by who asks, and then everything is taken."""

import asyncio
import time
from collections import Counter
from pathlib import Path

from kvquilt_codec.errors import CapacityError
from kvquilt_codec.types import LayerShape, Level
from kvquilt_rpc.admission import OVERLOADED
from kvquilt_rpc.nodes import CacheNodes, ObjectRef, PoolOptions, open_nodes
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.rpc.nodes.cluster import until
from tests.stack import node_process

KEY, DATA, META = make_object(make_chunk(256, (LayerShape(8, 64, 64),) * 4), Level.LOSSLESS, "a document")
REF = ObjectRef(KEY, META.chunk_key)
CALLERS, CALLS = 24, 40
DEADLINE = 60.0
FLAGS = ("--set", "node.max_transfers=1", "--set", "node.max_waiting=1")


async def get(pool: CacheNodes) -> str:
    """What came of one."""
    pieces = pool.get(REF, FINGERPRINT, deadline=DEADLINE)
    try:
        size = sum([len(piece) async for piece in pieces if isinstance(piece, bytes)])
    except CapacityError as error:
        return error.reason
    assert size == len(DATA)
    return "taken"


async def asking(pool: CacheNodes) -> Counter[str]:
    """Ask again and again, whatever comes of it."""
    found: Counter[str] = Counter()
    for _ in range(CALLS):
        found[await get(pool)] += 1
        await asyncio.sleep(0.02)
    return found


async def test_refusals_reach_an_overloaded_node_less_often_and_everything_is_taken_afterwards(tmp_path: Path) -> None:
    with node_process(tmp_path, *FLAGS) as (_, address):
        async with open_nodes([address], PoolOptions(health_seconds=60)) as pool:
            await pool.put(KEY, DATA, META, deadline=DEADLINE)
            assert await get(pool) == "taken"
            began = time.monotonic()
            found = sum(await asyncio.gather(*(asking(pool) for _ in range(CALLERS))), Counter[str]())
            lasted = time.monotonic() - began
            (state,) = await pool.states(deadline=DEADLINE)
            assert state.status is not None
            shed, gets = state.status.counters["calls_shed"], state.status.counters["gets"]
            assert gets == found["taken"] + 1
            assert shed + state.spared == found[OVERLOADED] == CALLERS * CALLS - found["taken"]
            assert found[OVERLOADED] > CALLERS * CALLS / 4, "far more than it takes was asked"
            # A quarter of what it takes, and four a second; at first all callers ask at once.
            assert shed < found["taken"] / 2 + 6 * lasted + 2 * CALLERS
            assert found["taken"] > 0
            assert (state.breaker, state.failures) == ("closed", 0)

            async def recovered() -> bool:
                return [await get(pool) for _ in range(20)] == ["taken"] * 20

            await until(recovered)
            before = (await pool.states(deadline=DEADLINE))[0].spared
            assert await recovered()
            assert pool.known()[0].spared == before
