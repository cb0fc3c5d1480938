"""What encryption at rest costs: the same blobs sealed and plain, by turns in every round.

PYTHONPATH=bench:. python -m store.sealing
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.key_store import MemoryKeys
from kvquilt_cache_node.store.keyring import Keyring
from kvquilt_cache_node.store.master_keys import MasterKeys
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.sealed import SealedBlobs
from kvquilt_cache_node.types import Blobs
from kvquilt_rpc.allocation import keep_freed_memory
from tests import servers

SIZES = (64 << 10, 2 << 20, 16 << 20)
ROUNDS = 9
BYTES_A_ROUND = 32 << 20
KEYS = [bytes([number]) * 32 for number in range(2)]


async def measured(rounds: int = ROUNDS) -> list[dict[str, Any]]:
    """A row for each medium, action and size: GB/s (10^9 bytes) of blobs plain and sealed, and CPU seconds a GB."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kvquilt-bench-sealing-") as folder, ExitStack() as stack:
        url = stack.enter_context(servers.valkey(Path(folder))).url
        media: dict[str, Callable[[str], Awaitable[Blobs]]] = {
            "memory": lambda _: _made(MemoryBlobs()),
            "file": lambda name: _made(FileBlobs(Path(folder) / name, fsync=False)),
            "redis": lambda name: _redis(url, name),
        }
        for medium, opening in media.items():
            keyring = await Keyring.open(MemoryKeys(), MasterKeys(os.urandom(32)), time.monotonic)
            ways = {"plain": await opening("plain"), "sealed": SealedBlobs(await opening("sealed"), keyring)}
            for size in SIZES:
                rows += await _rows(medium, size, ways, rounds)
            for blobs in ways.values():
                await blobs.close()
    return rows


async def _made(blobs: Blobs) -> Blobs:
    return blobs


async def _redis(url: str, name: str) -> Blobs:
    return RedisBlobs(await RedisClient.connect(RedisUrl.parse(url), RedisOptions()), name)


async def _rows(medium: str, size: int, ways: dict[str, Blobs], rounds: int) -> list[dict[str, Any]]:
    data, calls = os.urandom(size), max(2, BYTES_A_ROUND // size // 4)
    taken: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        for way in sorted(ways, reverse=bool(number % 2)):
            for action in ("put", "get"):
                cpu, began = time.process_time(), time.perf_counter()
                for call in range(calls):
                    if action == "put":
                        await ways[way].write(KEYS[call % 2], data)
                    else:
                        await ways[way].read(KEYS[call % 2])
                spent = time.perf_counter() - began, time.process_time() - cpu
                if number:  # the first round warms up
                    taken.setdefault((action, way), []).append(spent)
    rows = []
    for action in ("put", "get"):
        plain, sealed = taken[action, "plain"], taken[action, "sealed"]
        gigabytes = calls * size / 1e9
        rows.append(
            {
                "path": f"{medium} {action}",
                "payload_bytes": size,
                "plain_gb_s": gigabytes / median(seconds for seconds, _ in plain),
                "sealed_gb_s": gigabytes / median(seconds for seconds, _ in sealed),
                "sealed_vs_plain": median(one / other for (one, _), (other, _) in zip(plain, sealed, strict=True)),
                "cpu_s_a_gb_plain": median(cpu for _, cpu in plain) / gigabytes,
                "cpu_s_a_gb_sealed": median(cpu for _, cpu in sealed) / gigabytes,
            }
        )
    return rows


def main() -> None:
    keep_freed_memory()  # as nodes do
    table = Table(title="Blobs in this process, sealed and plain")
    rows = asyncio.run(measured())
    for name in rows[0]:
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{value:.3g}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(file=sys.stdout, width=140).print(table)


if __name__ == "__main__":
    main()
