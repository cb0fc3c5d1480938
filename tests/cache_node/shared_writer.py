"""A process that puts one object into a store that others share, and halts before it writes its bytes.

    python -m tests.cache_node.shared_writer URL FOLDER CAPACITY LEASE NUMBER SIZE

Prints "reserved" before it writes, goes on when a line comes, prints "stored", "present" or the reason of an error.
"""

import asyncio
import sys
from pathlib import Path

from kvquilt_cache_node.store import IndexedStore
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_codec.errors import KvquiltError
from tests.cache_node.remote import redis_blobs, redis_index
from tests.contracts.store_objects import put


def say(word: str) -> None:
    """To the process that started this one."""
    sys.stdout.write(word + "\n")
    sys.stdout.flush()


class HaltingBlobs:
    """Blobs that ask before they write."""

    def __init__(self, blobs: RedisBlobs) -> None:
        self._blobs = blobs

    def __getattr__(self, name: str) -> object:
        return getattr(self._blobs, name)

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        say("reserved")
        await asyncio.to_thread(sys.stdin.readline)
        await self._blobs.write(key, data)
        say("written")
        await asyncio.to_thread(sys.stdin.readline)


async def main(url: str, folder: str, capacity: str, lease: str, number: str, size: str) -> None:
    """See the module."""
    blobs = HaltingBlobs(await redis_blobs(url, Path(folder)))
    index = await redis_index(url, Path(folder), lease=float(lease))
    store = IndexedStore(blobs, index, int(capacity))
    try:
        say("stored" if await put(store, int(number), int(size)) else "present")
    except KvquiltError as error:
        say(error.reason)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
