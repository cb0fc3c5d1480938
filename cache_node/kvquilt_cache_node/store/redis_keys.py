"""Wrapped keys in Redis or Valkey: one hash, which all nodes of a store share."""

import hashlib

from kvquilt_cache_node.store.key_store import check_name
from kvquilt_cache_node.store.redis_client import Answer, RedisClient
from kvquilt_codec.errors import IntegrityError, UnavailableError

_SWAP = """
local there = redis.call('HGET', KEYS[1], ARGV[1])
if (there or '') ~= ARGV[2] then return there or '' end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[3])
return ARGV[3]
"""
_DIGEST = hashlib.sha1(_SWAP.encode(), usedforsecurity=False).hexdigest()


class RedisKeys:
    """See `KeyStore`. The hash is `PREFIX:keys`: outside of the index, which may be erased and rebuilt.

    Args:
        client: of a server or a Cluster; closed with this.
        prefix: `node.redis_prefix`.
    """

    def __init__(self, client: RedisClient, prefix: str) -> None:
        self._client = client
        self._hash = f"{prefix}:keys"

    async def get(self, name: str) -> bytes | None:
        """See `KeyStore.get`."""
        return _record(await self._call("HGET", self._hash, check_name(name)))

    async def swap(self, name: str, expected: bytes | None, record: bytes) -> bytes:
        """See `KeyStore.swap`."""
        try:
            there = await self._client.script(_SWAP, _DIGEST, self._hash, check_name(name), expected or b"", record)
        except IntegrityError as error:
            raise self._strange(error) from None
        return _record(there) or b""

    async def delete(self, name: str) -> bool:
        """See `KeyStore.delete`."""
        return bool(await self._call("HDEL", self._hash, check_name(name)))

    async def names(self) -> list[str]:
        """See `KeyStore.names`."""
        found: set[str] = set()
        cursor = 0
        while True:
            cursor, part = await self._call("HSCAN", self._hash, cursor, "COUNT", 1000)
            found |= {name.decode("latin-1") for name in part}
            if int(cursor) == 0:
                return sorted(found)

    async def close(self) -> None:
        """See `KeyStore.close`."""
        await self._client.close()

    async def _call(self, *words: bytes | str | int) -> Answer:
        try:
            return await self._client.call(*words)
        except IntegrityError as error:
            raise self._strange(error) from None

    def _strange(self, error: IntegrityError) -> UnavailableError:
        # Not damage of an object: those that need a key stay until somebody has put this right.
        return UnavailableError(f"expected the keys of namespaces in the hash {self._hash}; {error}")


def _record(answer: Answer) -> bytes | None:
    return answer if isinstance(answer, bytes) else None
