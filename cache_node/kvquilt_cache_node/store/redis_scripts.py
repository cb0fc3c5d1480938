"""The Lua scripts of the index in Redis: each runs as one atomic step on the server, in one round trip."""

import hashlib
from collections.abc import AsyncGenerator
from functools import cache
from pathlib import Path
from typing import Any

from kvquilt_cache_node.store.redis_client import RedisClient
from kvquilt_codec.errors import IntegrityError

Argument = bytes | str | int | float

_FOLDER = Path(__file__).parent / "lua"
REPAIR = "run `kvquilt repair --rebuild`"


@cache
def _source(name: str) -> tuple[str, str]:
    """Text of a script and its SHA-1, by which the server knows it."""
    text = (_FOLDER / "common.lua").read_text("utf-8") + (_FOLDER / f"{name}.lua").read_text("utf-8")
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


class Scripts:
    """Runs scripts on the keys of one index.

    Args:
        client: of a server or a cluster.
        prefix: what the names of the index's keys begin with; its hash tag keeps them in one slot of a cluster.
    """

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self.prefix = prefix

    async def run(self, name: str, *arguments: Argument) -> Any:
        """What a script returns.

        Raises:
            As `RedisClient.script`.
        """
        try:
            return await self._client.script(*_source(name), self.prefix, *arguments)
        except IntegrityError as error:
            raise IntegrityError(f"{error} (of the index {self.prefix}: {REPAIR})") from None

    async def sizes(self) -> dict[bytes, int]:
        """All keys with their sizes, in steps that do not block the server.

        Raises:
            As `run`.
        """
        found: dict[bytes, int] = {}
        async for part in self.parts(1000):
            try:
                found |= {key: int(size) for key, size in part.items()}
            except ValueError as error:
                raise IntegrityError(f"expected sizes in the index {self.prefix}; got {error}: {REPAIR}") from None
        return found

    async def parts(self, count: int, name: str = "sizes") -> AsyncGenerator[dict[bytes, bytes], None]:
        """All fields of a hash, by default keys and sizes, about so many at a time; some may come again (see HSCAN).

        Raises:
            As `run`.
        """
        cursor = None
        while cursor != 0:
            cursor, part = await self._client.call("HSCAN", f"{self.prefix}:{name}", cursor or 0, "COUNT", count)
            yield part

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
