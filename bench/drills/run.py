"""All drills by name, and one of them from an empty folder to its outcome."""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path

from drills import (
    clock_faults,
    failovers,
    node_faults,
    router_faults,
    server_faults,
    storage_faults,
    tier_faults,
    tls_faults,
)
from drills.place import Place
from drills.stage import Outcome, Stage

Drill = Callable[[Stage], Awaitable[Outcome]]

DRILLS: dict[str, Drill] = {
    drill.__name__.replace("_", "-"): drill
    for drill in (
        node_faults.kill_node_mid_put,
        node_faults.kill_node_mid_get,
        node_faults.pause_node,
        node_faults.bit_flips,
        node_faults.full_disk,
        node_faults.two_nodes_one_killed,
        server_faults.kill_redis,
        server_faults.pause_redis,
        server_faults.kill_cluster_primary,
        server_faults.kill_s3,
        server_faults.restart_everything,
        storage_faults.s3_slow_down,
        storage_faults.s3_slow,
        storage_faults.s3_truncated,
        storage_faults.s3_resets,
        tier_faults.queue_store_down,
        tier_faults.queue_kill_node,
        tier_faults.master_key_missing,
        clock_faults.clock_jumps_of_a_node,
        clock_faults.clock_jumps_of_redis,
        tls_faults.tls_crashes,
        tls_faults.tls_certificates_replaced,
        tls_faults.tls_certificates_expire,
        failovers.cluster_failover,
        failovers.sentinel_failover,
        router_faults.router_kill_node,
        router_faults.router_pause_node,
        router_faults.router_kill_redis,
        router_faults.router_pause_redis,
    )
}


async def run(name: str, folder: Path, *, seconds: float, seed: int) -> Outcome:
    """One drill in a folder that is empty; nothing that it started is running afterwards."""
    with ExitStack() as stack:
        return await DRILLS[name](Stage(Place(folder, stack), seconds, seed))
