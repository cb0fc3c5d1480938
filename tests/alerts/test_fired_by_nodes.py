"""Alerts of nodes and stores, each fired by the fault that it is for, and over when that is mended."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from drills.load import Load, numbered
from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.security import Credentials
from tests import servers
from tests.alerts.watching import Watch, Watched, watch
from tests.rpc.certificates import Authority, Signer
from tests.servers.prometheus import PROMETHEUS

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus")

BY_NODES = {
    "KvquiltCertificateExpiring",
    "KvquiltCorruptObjects",
    "KvquiltDeletionsPending",
    "KvquiltNodeDown",
    "KvquiltRequestsShed",
    "KvquiltStoreNearlyFull",
    "KvquiltStoreUnreachable",
    "KvquiltTokenExpiring",
    "KvquiltWriteQueueGrowing",
}
"""Alerts that this file fires."""
ALONE = 100
"""Number of an object that the load does not ask for."""


async def test_faults_of_nodes_and_stores_fire_their_alerts(tmp_path: Path) -> None:
    with watch(tmp_path) as watched:
        sound = await asyncio.to_thread(watched.node)
        load = Load([sound.target], seed=0, population=8)
        async with load.running():
            await asyncio.gather(*(faults(watched) for faults in (_careless, _forgetful, _unlucky, _without_its_store)))
        await load.close()
        assert load.wrong == load.failed == []
        assert watched.fired == BY_NODES
        assert {name for name, instance in watched.firing() if instance == sound.metrics} == set()
        assert watched.prometheus.problems() == []


async def _careless(watched: Watch) -> None:
    """A cap that is larger than the disk, and a certificate that nobody renews."""
    authority = Authority.new(watched.place.folder / "pem")
    soon = authority.issue("server", servers.HOST, expires=datetime.now(UTC) + timedelta(days=5))
    tls = (f"node.security.tls_cert={soon.cert}", f"node.security.tls_key={soon.key}")
    node = await asyncio.to_thread(watched.node, "node.capacity=1PiB", *tls)
    said = await asyncio.to_thread(watched.fires, "KvquiltCertificateExpiring", instance=node.metrics, role="server")
    assert "expires in 4d 23h" in said["description"]
    await asyncio.to_thread(watched.fires, "KvquiltStoreNearlyFull", instance=node.metrics, tier="store")

    authority.issue("server", servers.HOST)  # over the same files
    await asyncio.to_thread(watched.ends, "KvquiltCertificateExpiring", instance=node.metrics)
    await asyncio.to_thread(node.started_with, **{"node.capacity": "1MiB"})
    await asyncio.to_thread(watched.ends, "KvquiltStoreNearlyFull", instance=node.metrics)


async def _forgetful(watched: Watch) -> None:
    """A token that was made for an hour has three minutes left, and its owner goes on with it; then it is renewed."""
    signer = Signer.new(watched.place.folder / "signing")
    token = watched.place.folder / "token"
    token.write_text(signer.token("app", "team-a", age=3420))
    node = await asyncio.to_thread(watched.node, f"node.security.token_key={signer.public}")
    client = NodeClient(node.target, Credentials(token_file=token))
    calls = asyncio.create_task(_called(client))
    mine = {"instance": node.metrics, "role": "callers", "tenant": "team-a"}
    said = await asyncio.to_thread(watched.fires, "KvquiltTokenExpiring", **mine)
    assert "(callers of team-a) has" in said["description"]

    token.write_text(signer.token("app", "team-a"))
    await asyncio.to_thread(node.started_with)  # else the old token counts as in use for ten minutes
    await asyncio.to_thread(watched.ends, "KvquiltTokenExpiring", **mine)
    calls.cancel()
    await asyncio.gather(calls, return_exceptions=True)
    await client.close()


async def _called(client: NodeClient) -> None:
    while True:
        with contextlib.suppress(KvquiltError):
            await client.stat([numbered(1)[0]], deadline=10)
        await asyncio.sleep(0.2)


async def _unlucky(watched: Watch) -> None:
    """A bit flips on the disk; more calls come than may; the process is gone."""
    node = await asyncio.to_thread(watched.node, "node.security.calls_per_second=20")
    load = Load([node.target], seed=0)
    await load.stored(ALONE)
    (path,) = watched.place.folder.glob(f"node-*/data/blobs/??/{numbered(ALONE)[0].hex()}.kvq")
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)
    assert not await load.get(ALONE)
    await asyncio.to_thread(watched.fires, "KvquiltCorruptObjects", instance=node.metrics, kind="object")
    await asyncio.to_thread(watched.ends, "KvquiltCorruptObjects", instance=node.metrics)

    flood = asyncio.create_task(_flooded(load, node))
    await asyncio.to_thread(watched.fires, "KvquiltRequestsShed", job="kvquilt-node")
    flood.cancel()
    await asyncio.gather(flood, return_exceptions=True)
    assert load.missed["rate_limited"] > 0
    await asyncio.to_thread(watched.ends, "KvquiltRequestsShed")
    await load.close()

    node.process.kill()
    await asyncio.to_thread(watched.fires, "KvquiltNodeDown", instance=node.metrics)
    await asyncio.to_thread(node.process.start)
    await asyncio.to_thread(watched.ends, "KvquiltNodeDown", instance=node.metrics)


async def _flooded(load: Load, node: Watched) -> None:
    while True:
        await load.get(1)
        await asyncio.sleep(0.01)


async def _without_its_store(watched: Watch) -> None:
    """Redis is gone: reads and deletions fail, and a write queue is not worked off."""
    redis = watched.place.valkey()
    settings = watched.place.redis_settings(redis.url)
    through = await asyncio.to_thread(watched.node, *settings, "node.redis_prefix=through")
    back = await asyncio.to_thread(watched.node, *settings, "node.redis_prefix=back", "node.write_mode=back")
    load = Load([through.target, back.target], seed=0, population=8)
    await load.stored(0)
    redis.process.kill()
    assert not await load.put(1)
    receipt = await load.nodes[0].forget(keys=[numbered(0)[0]], deadline=10)
    assert receipt.pending == 1
    assert await load.put(2, node=1), "the queue takes it"
    async with load.running():
        await asyncio.to_thread(watched.fires, "KvquiltStoreUnreachable", instance=through.metrics, tier="store")
        await asyncio.to_thread(watched.fires, "KvquiltDeletionsPending", instance=through.metrics)
        await asyncio.to_thread(watched.fires, "KvquiltWriteQueueGrowing", instance=back.metrics)
        await asyncio.to_thread(redis.process.start)
        for name in ("KvquiltStoreUnreachable", "KvquiltDeletionsPending", "KvquiltWriteQueueGrowing"):
            await asyncio.to_thread(watched.ends, name)
    assert load.failed == load.wrong == []
    await load.close()
