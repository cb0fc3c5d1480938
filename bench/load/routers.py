"""A router process with its node, asked for blends: here the model is what takes the time, not the cache."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from drills.place import Place
from kvquilt import AsyncClient, Document
from kvquilt_router.engine.model import resolve
from ttft.sessions import Lengths

MODEL = "smollm2"
DEADLINE = 8.0
SETTINGS = (
    "router.profile=",
    "router.gate=",
    "router.ungated=true",
    "router.policy=deviation",
    "router.recompute_ratio=0.15",
    "router.level=high",
    "router.audit_share=0",
    "router.background=false",
    "router.warm_up_passages=0",
)
_DOCUMENTS, _TOKENS = 12, 128
_MOST = 512
"""Tokens of a prompt: the demo model's context is short, and a step has to have more than a few blends."""
_QUESTION = 24
_VOCABULARY = 40_000


class BlendLoad:
    """Prompts of stored documents in orders never seen, and a question of their own."""

    name = "blends"
    nodes = 1
    deadline = DEADLINE
    workers = 2

    def __init__(self, target: str, pids: dict[str, Sequence[int]], lengths: Lengths, seed: int) -> None:
        self.addresses = [target]
        self.pids = pids
        self._client = AsyncClient(target)
        self._lengths = lengths.prompts
        self._rng = random.Random(seed)
        self._documents = [self._tokens(_TOKENS) for _ in range(_DOCUMENTS)]

    async def fill(self) -> None:
        """Have every document computed and stored."""
        documents = [Document(f"document {number}", tokens) for number, tokens in enumerate(self._documents)]
        async for done in self._client.prefetch(documents):
            if done.failed:
                raise RuntimeError(f"expected {done.document_id} to be stored; it failed: {done.failure_reason}")

    async def ask(self, number: int) -> int:  # noqa: ARG002  each is drawn anew
        """See `Load.ask`."""
        length = min(self._rng.choice(self._lengths), _MOST)
        chosen = self._rng.sample(self._documents, max(1, length // _TOKENS))
        kv = await self._client.blend([*chosen, self._tokens(_QUESTION)], transient=True, deadline=self.deadline)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in kv.layers)

    async def settle(self) -> None:
        """See `Load.settle`; blends that store nothing leave nothing."""

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    def _tokens(self, count: int) -> list[int]:
        return [self._rng.randrange(100, _VOCABULARY) for _ in range(count)]


@asynccontextmanager
async def blending(folder: Path, lengths: Lengths, seed: int) -> AsyncIterator[BlendLoad]:
    """A fresh router and node with every document stored."""
    with ExitStack() as stack:
        place = Place(folder, stack)
        node = await asyncio.to_thread(place.node)
        router, target = await asyncio.to_thread(place.router, resolve(MODEL), *SETTINGS)
        load = BlendLoad(target, {"routers": [router.pid], "nodes": [node.pid]}, lengths, seed)
        try:
            await load.fill()
            yield load
        finally:
            await load.close()
