"""What asks a router: prompts whose KV is blended and compared with a full prefill's, and documents to store."""

import asyncio
import contextlib
import random
import time
from contextlib import AbstractAsyncContextManager

import numpy as np

from drills.asking import Asking
from drills.load import PAUSE, WORKERS
from drills.tiny_model import TOLERANCE, VOCABULARY, FullPrefill
from kvquilt import AsyncClient, BlendedKV, Document, PrefetchProgress
from kvquilt_codec.errors import KvquiltError
from kvquilt_router.engine import LoadedModel

LIMIT = 4.0
"""Seconds that a request to the router may take: its deadlines for nodes, and time to compute."""
DEADLINES = ("router.stat_deadline=1", "router.fetch_deadline=1", "router.put_deadline=1")
POPULATION = 32
_PREFIX = list(range(11, 27))
_QUESTION = [5, 6, 7, 8]


class RouterLoad(Asking):
    """Workers that have prompts blended and documents stored until they are told to stop.

    Each prompt is the shared prefix, one document and a question, at level `lossless`: what is found is found in its
    exact context, so that whatever was found or missed, the result equals a full prefill but for rounding.

    Attributes:
        acknowledged: when a document was stored as the router said, by its number.
        difference: the largest one from a full prefill so far.
    """

    def __init__(self, target: str, model: LoadedModel, seed: int) -> None:
        super().__init__()
        self.acknowledged: dict[int, float] = {}
        self.difference = 0.0
        self.random = random.Random(seed)
        self._client = AsyncClient(target)
        draw = np.random.default_rng(7)
        lengths = range(40, 40 + 6 * POPULATION, 6)
        self._documents = [draw.integers(3, VOCABULARY, length).tolist() for length in lengths]
        prompts = [[*_PREFIX, *document, *_QUESTION[:-1]] for document in self._documents]
        self._expected = [FullPrefill(model, prompt) for prompt in prompts]

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()

    async def blend(self, number: int) -> bool:
        """Whether all of a document came from the cache."""
        segments = [self._documents[number], _QUESTION]
        kv = await self.ask(
            "blend",
            lambda: self._client.blend(segments, shared_prefix=_PREFIX, policy="none", level="lossless", deadline=60),
            LIMIT,
            may_miss=False,
        )
        if not isinstance(kv, BlendedKV):
            return False
        difference = await asyncio.to_thread(self._expected[number].difference, kv)
        self.difference = max(self.difference, difference)
        if difference > TOLERANCE:
            self.wrong.append(f"document {number}, off by {difference:.2g}")
        self.missed.update(chunk.miss_reason for chunk in kv.report.chunks if chunk.miss_reason)
        return kv.report.hit

    async def store(self, number: int) -> bool:
        """Whether a document was stored, or was there."""
        done = await self.ask("prefetch", lambda: self._prefetched(number), LIMIT, may_miss=False)
        if not isinstance(done, PrefetchProgress):
            return False
        if done.failed:
            self.missed["store failed"] += 1
            return False
        self.acknowledged[number] = time.monotonic()
        return True

    async def _prefetched(self, number: int) -> PrefetchProgress:
        documents = [Document(f"document {number}", self._documents[number])]
        done = self._client.prefetch(documents, shared_prefix=_PREFIX, level="lossless", deadline=60)
        (progress,) = [one async for one in done]
        return progress

    async def fill(self, count: int) -> None:
        """Store the first documents."""
        for number in range(count):
            await self.until(lambda number=number: self.store(number), f"document {number} to be stored")

    def running(self) -> AbstractAsyncContextManager[None]:
        """Have the workers ask."""
        return self.working([self._worker() for _ in range(WORKERS)])

    async def _worker(self) -> None:
        while True:
            act = self.store if self.random.random() < 0.2 else self.blend
            await act(self.random.randrange(POPULATION))
            await asyncio.sleep(self.random.uniform(0, 4 * PAUSE))

    async def recovery(self, number: int) -> float:
        """Seconds until an acknowledged document comes from the cache as a whole."""
        return await self.until(lambda: self.blend(number), f"document {number} to come")

    async def lost(self) -> list[int]:
        """Acknowledged documents that the router does not find, each asked for again while nodes are busy."""
        return [number for number in sorted(self.acknowledged) if not await self._kept(number)]

    async def _kept(self, number: int) -> bool:
        with contextlib.suppress(RuntimeError):
            await self.until(lambda: self._planned(number), f"document {number} to be found", 10)
            return True
        return False

    async def _planned(self, number: int) -> bool:
        with contextlib.suppress(KvquiltError):
            segments = [self._documents[number], _QUESTION]
            plan = await self._client.plan(segments, shared_prefix=_PREFIX, policy="none", level="lossless")
            return not any(chunk.miss_reason for chunk in plan.chunks)
        return False
