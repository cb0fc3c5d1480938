"""What a node's user may do in Redis: every command that a node calls, tried on a key of its own."""

import secrets
from collections.abc import Mapping

from kvquilt_cache_node.store.redis_client import Answer, RedisClient
from kvquilt_cache_node.store.redis_records import Names
from kvquilt_codec.errors import IntegrityError, UnavailableError

_EXPIRES_MS = 10_000
Words = tuple[str, ...]

BLOB_COMMANDS: Mapping[str, Words] = {
    "ping": (),
    "set": ("KEY", "kvquilt", "PX", str(_EXPIRES_MS)),
    "get": ("KEY",),
    "getrange": ("KEY", "0", "1"),
    "exists": ("KEY",),
    "pttl": ("KEY",),
    "persist": ("ABSENT",),
    "eval": ("return 1", "1", "KEY"),
    "scan": ("KEY",),
    "unlink": ("ABSENT",),
}
"""Commands that keeping objects takes, as an ACL names them, with arguments that change nothing but the key `KEY`.

The client library also tells its name (`client|setinfo`), and goes on where it may not.
"""

CLUSTER_COMMANDS: Mapping[str, Words] = {"cluster|slots": (), "cluster|shards": ()}
"""What a client of a Cluster asks too."""

INDEX_COMMANDS: Mapping[str, Words] = {
    "evalsha": ("0" * 40, "1", "KEY"),
    "time": (),
    "info": ("memory",),
    "hget": ("KEY", "f"),
    "hgetall": ("KEY",),
    "hkeys": ("KEY",),
    "hset": ("KEY", "f", "v"),
    "hdel": ("KEY", "f"),
    "hmget": ("KEY", "f"),
    "hexists": ("KEY", "f"),
    "hincrby": ("KEY", "f", "1"),
    "hscan": ("KEY", "0"),
    "sadd": ("KEY", "m"),
    "srem": ("KEY", "m"),
    "smembers": ("KEY",),
    "srandmember": ("KEY",),
    "zadd": ("KEY", "1", "m"),
    "zrem": ("KEY", "m"),
    "zscore": ("KEY", "m"),
    "zcard": ("KEY",),
    "zrange": ("KEY", "0", "1"),
    "zrevrange": ("KEY", "0", "1"),
    "zrangebyscore": ("KEY", "0", "1"),
    "zrangebylex": ("KEY", "-", "+"),
    "type": ("KEY",),
}
"""What an index in Redis takes beside them. `KEY` holds a string, so that those of other types are refused as such."""


async def denied(client: RedisClient, prefix: str, *, cluster: bool, index: bool) -> list[str]:
    """Commands that the user may not call on a node's keys, as an ACL names them; keys where those are the reason.

    What it writes is one key or two under the node's prefix, for ten seconds at most.

    Args:
        client: as the node connects.
        prefix: of the node's keys.
        cluster: the server is part of a Cluster.
        index: the index is there too.

    Raises:
        BadRequestError: a prefix that cannot be.
        KvquiltError: the server cannot be reached, or is full.
    """
    Names(prefix)
    probe = f"doctor-{secrets.token_hex(8)}"
    found = await _denied(client, f"{prefix}:{probe}", {**BLOB_COMMANDS, **(CLUSTER_COMMANDS if cluster else {})})
    if index:
        write = {"set": BLOB_COMMANDS["set"]}
        found += await _denied(client, f"{{{prefix}:index}}:{probe}", {**write, **INDEX_COMMANDS})
    return list(dict.fromkeys(found))


async def _denied(client: RedisClient, key: str, commands: Mapping[str, Words]) -> list[str]:
    names = {"KEY": key, "ABSENT": f"{key}-absent"}
    found = []
    try:
        for command, arguments in commands.items():
            words = [command.replace("|", " ").upper(), *(names.get(word, word) for word in arguments)]
            if said := await _refusal(client, *words):
                found.append(f"+{command}" if "run the" in said else f"~{key.partition('doctor-')[0]}*")
    finally:
        await _refusal(client, "UNLINK", key)
    return found


async def _refusal(client: RedisClient, *words: str) -> str:
    """What the server says if the user may not call something; empty if it may."""
    try:
        if words[0] == "SCAN":
            async for _ in client.scan(words[1], 1, pages=1):
                pass
        else:
            await client.call(*words)
    except IntegrityError:  # a value of another type: the call itself was allowed
        return ""
    except UnavailableError as error:
        said = str(error).rpartition("it said: ")[2]
        if error.reason == "store_refused" and "permission" in said:
            return said
        if "matching script" in said or "unknown subcommand" in said:
            return ""
        raise
    return ""


async def facts(client: RedisClient, section: str) -> dict[str, str]:
    """What the server says of itself; of a Cluster, of one of its servers.

    Args:
        client: as the node connects.
        section: of INFO: "memory", "persistence" or "server".

    Raises:
        KvquiltError: the user may not ask, or the server cannot be reached.
    """
    said: Answer = await client.call("INFO", section)
    if isinstance(said, dict):
        first = next(iter(said.values()), None)
        return {str(name): str(value) for name, value in (first if isinstance(first, dict) else said).items()}
    return {}


async def index_format(client: RedisClient, prefix: str) -> str:
    """The format of the index under a prefix; empty if there is none.

    Raises:
        KvquiltError: the user may not ask, or the server cannot be reached.
    """
    said: Answer = await client.call("GET", f"{{{prefix}:index}}:version")
    return said.decode(errors="replace") if isinstance(said, bytes) else ""


async def server_time(client: RedisClient) -> float:
    """The server's clock, in seconds since 1970.

    Raises:
        KvquiltError: the user may not ask, or the server cannot be reached.
    """
    said: Answer = await client.call("TIME")
    if isinstance(said, dict):
        said = next(iter(said.values()))
    seconds, micros = said
    return float(seconds) + float(micros) / 1e6
