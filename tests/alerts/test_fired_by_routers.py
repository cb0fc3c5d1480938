"""Alerts of routers, each fired by the fault that it is for, and over when that is mended; none while all is well."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from drills.tiny_model import VOCABULARY, saved
from kvquilt import AsyncClient, Document
from kvquilt_codec.errors import KvquiltError, UnavailableError
from tests.alerts.watching import Watch, Watched, watch
from tests.proxy import Flow, adjustable
from tests.router.families import HEAVY
from tests.servers.prometheus import PROMETHEUS

pytestmark = pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus")

BY_ROUTERS = {
    "KvquiltBreakerOpen",
    "KvquiltHitRateDropped",
    "KvquiltNotWorthIt",
    "KvquiltRequestsFailing",
    "KvquiltRouterDown",
}
"""Alerts that this file fires."""

PREFIX, QUESTION = list(range(11, 27)), [5, 6, 7, 8]
SETTINGS = (
    "router.profile=",
    "router.ungated=true",
    "router.background=false",
    "router.warm_up_passages=0",
    "router.chunk_tokens=1024",
    "router.health_seconds=2",
    "router.stat_deadline=2",
    "router.fetch_deadline=30",
    "router.threads=1",
)


@dataclass
class Asking:
    """Prompts that are asked again and again: of stored documents, or of `fresh` ones that nobody has seen.

    Attributes:
        found, computed: how many had stored KV, and how many had none.
        failed: those that ended in an error.
    """

    client: AsyncClient
    documents: list[list[int]] = field(default_factory=lambda: [_words(seed, 600) for seed in range(4)])
    fresh: bool = False
    found: int = 0
    computed: int = 0
    failed: list[KvquiltError] = field(default_factory=list)

    async def stored(self) -> None:
        """Have the documents stored."""
        named = [Document(f"document {number}", content) for number, content in enumerate(self.documents)]
        async for done in self.client.prefetch(named, shared_prefix=PREFIX, level="lossless", deadline=60):
            assert not done.failed, done

    async def run(self) -> None:
        """Ask until cancelled, ten times a second at most."""
        number = 0
        while True:
            number += 1
            document = _words(1000 + number, 100) if self.fresh else self.documents[number % len(self.documents)]
            try:
                kv = await self.client.blend(
                    [document, QUESTION], shared_prefix=PREFIX, policy="none", level="lossless", deadline=60
                )
                self.found += kv.report.hit
                self.computed += not kv.report.hit
            except KvquiltError as error:
                self.failed.append(error)
            await asyncio.sleep(0.1)


def _words(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(3, VOCABULARY, count).tolist()


@asynccontextmanager
async def asking(router: Watched) -> AsyncIterator[Asking]:
    """Requests to a router until the end."""
    client = AsyncClient(router.target)
    found = Asking(client)
    await found.stored()
    task = asyncio.create_task(found.run())
    try:
        yield found
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await client.close()


async def test_faults_around_routers_fire_their_alerts(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    await asyncio.to_thread(saved, folder, **HEAVY)
    flows = [Flow(), Flow()]
    with watch(tmp_path) as watched:
        async with AsyncExitStack() as stack:
            nodes = [await asyncio.to_thread(watched.node) for _ in flows]
            proxies = [
                await stack.enter_async_context(adjustable(node.target, flow))
                for node, flow in zip(nodes, flows, strict=True)
            ]
            watched.place.targets[:] = proxies
            router = await asyncio.to_thread(watched.router, folder, *SETTINGS)
            async with asking(router) as load:
                await _well(watched, load)
                await _never_seen(watched, load)
                await _slow(watched, flows)
                await _hanging(watched, flows[0], proxies[0])
                assert load.failed == [], "what nodes do fails no request"
            await _forgetting(watched, router, nodes[0])
            await _gone(watched, router)
        assert watched.fired == BY_ROUTERS
        assert watched.prometheus.problems() == []


async def _well(watched: Watch, load: Asking) -> None:
    """While requests are served nothing fires."""
    begin = load.found
    while load.found < begin + 60:
        assert await asyncio.to_thread(watched.firing) == set()
        await asyncio.sleep(0.5)


async def _never_seen(watched: Watch, load: Asking) -> None:
    """Prompts have nothing in common with those of before."""
    load.fresh = True
    said = await asyncio.to_thread(watched.fires, "KvquiltHitRateDropped")
    assert "% of the tokens" in said["description"]
    load.fresh = False
    await asyncio.to_thread(watched.ends, "KvquiltHitRateDropped")


async def _slow(watched: Watch, flows: list[Flow]) -> None:
    """Nodes answer, so slowly that computing would have been quicker."""
    for flow in flows:
        flow.pause = 0.4
    await asyncio.to_thread(watched.fires, "KvquiltNotWorthIt")
    for flow in flows:
        flow.pause = 0.0
    await asyncio.to_thread(watched.ends, "KvquiltNotWorthIt")


async def _hanging(watched: Watch, flow: Flow, target: str) -> None:
    """One node's answers do not come any more."""
    flow.opened.clear()
    await asyncio.to_thread(watched.fires, "KvquiltBreakerOpen", cache_node=target)
    flow.opened.set()
    await asyncio.to_thread(watched.ends, "KvquiltBreakerOpen")


async def _forgetting(watched: Watch, router: Watched, node: Watched) -> None:
    """A node is gone, and callers want things forgotten on all nodes."""
    node.process.kill()
    async with AsyncClient(router.target) as client:
        task = asyncio.create_task(_forgotten(client))
        await asyncio.to_thread(watched.fires, "KvquiltRequestsFailing", method="Forget")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(node.process.start)
        await asyncio.to_thread(watched.ends, "KvquiltRequestsFailing")


async def _forgotten(client: AsyncClient) -> None:
    while True:
        with pytest.raises(UnavailableError):
            await client.forget("document 0", deadline=10)
        await asyncio.sleep(0.2)


async def _gone(watched: Watch, router: Watched) -> None:
    """The router's process ends."""
    router.process.kill()
    await asyncio.to_thread(watched.fires, "KvquiltRouterDown", instance=router.metrics)
    await asyncio.to_thread(router.process.start)
    await asyncio.to_thread(watched.ends, "KvquiltRouterDown")
