"""What processes do while they are loaded: CPU time, memory, and whether their health service answers."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from load.types import Load, Watched
from processes import cpu_seconds
from soak.sampling import of_process

GENERATOR = "generator"
_PAUSE = 0.1
_HEALTH_EVERY = 3
_HEALTH_SECONDS = 1.0
"""As probes of Kubernetes have by default."""


class Watch:
    """Of one load, step by step."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._peaks: dict[str, float] = {}
        self._health: list[float] = []
        self._failed = 0
        self._cpu: dict[str, float] = {}

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Watch within; `seen` says what."""
        self._peaks, self._health, self._failed = {}, [], 0
        self._cpu = self._times()
        self._look()
        task = asyncio.create_task(self._sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def seen(self) -> Watched:
        """Since `watching` was entered."""
        used = {name: now - self._cpu[name] for name, now in self._times().items()}
        return Watched(used, dict(self._peaks), list(self._health), self._failed)

    def _times(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) for name, pids in self._load.pids.items()} | {GENERATOR: time.process_time()}

    async def _sample(self) -> None:
        for number in count():
            self._look()
            if number % _HEALTH_EVERY == 0:
                await asyncio.gather(*map(self._probe, self._load.addresses))
            await asyncio.sleep(_PAUSE)

    def _look(self) -> None:
        for name, pids in self._load.pids.items():
            most = max(of_process(pid)["rss_bytes"] for pid in pids)
            self._peaks[name] = max(self._peaks.get(name, 0.0), most)

    async def _probe(self, address: str) -> None:
        began = time.perf_counter()
        async with grpc.aio.insecure_channel(address) as channel:
            try:
                answer = await health_pb2_grpc.HealthStub(channel).Check(
                    health_pb2.HealthCheckRequest(), timeout=_HEALTH_SECONDS
                )
            except grpc.aio.AioRpcError:
                self._failed += 1
                return
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            self._health.append(time.perf_counter() - began)
        else:
            self._failed += 1
