"""A client of Redis or Valkey for stores: one server, a Cluster or Sentinels; deadlines; errors of our tree.

Nothing else of a store knows the client library. Values travel one command at a time: pipelines of large values are
slower, measured on loopback.
"""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.asyncio import Redis, RedisCluster
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import ExponentialWithJitterBackoff

from kvquilt_cache_node.redis_url import RedisMode, RedisUrl
from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.redis_bulk import fetched
from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    DeadlineError,
    IntegrityError,
    KvquiltError,
    UnavailableError,
)

Answer = Any
"""What Redis answers: bytes, an integer, a list of these, or None."""

_LARGE = 16 << 10
"""Bytes of a value from which on it is worth to read it past the library."""

_REFUSED = re.compile("NOAUTH|WRONGPASS|NOPERM|AUTH <password>|Authentication required|invalid (username-)?password")
_CALL_ERRORS = (exceptions.RedisError, exceptions.RedisClusterException, OSError)


@dataclass(frozen=True, slots=True)
class RedisOptions:
    """What a URL does not say.

    Attributes:
        connections: most commands at once, and so most connections (to each server of a Cluster).
        timeout: seconds until a command, its waiting for a connection included, must be answered.
        ca: PEM file of the authorities that a server's certificate must be of; `None`: the system's.
        certificate: PEM file of the client's certificate chain, for servers that ask for one.
        key: PEM file of its key.
    """

    connections: int = 8
    timeout: float = 5.0
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class RedisClient:
    """Commands under a deadline. Open it with `RedisClient.connect`."""

    def __init__(self, url: RedisUrl, options: RedisOptions) -> None:
        self._client, self._sentinels = _made(url, options)
        self._url = url
        self._timeout = options.timeout
        self._slots = asyncio.Semaphore(options.connections)
        self._open = Open("Redis")

    @classmethod
    async def connect(cls, url: RedisUrl, options: RedisOptions) -> "RedisClient":
        """Connect, and make sure that the server answers.

        Raises:
            BadRequestError: certificates that cannot be read.
            UnavailableError: not reachable, or it refuses the credentials or the certificate.
            DeadlineError: it does not answer in time.
        """
        client = cls(url, options)
        try:
            await client.call("PING")
        except BaseException:
            await client.close()
            raise
        return client

    async def call(self, *words: bytes | str | int) -> Answer:
        """The answer to one command.

        Raises:
            IntegrityError: a key holds a value of another type.
            CapacityError: the server's memory is full.
            UnavailableError: closed, not reachable, refused, or not able to now.
            DeadlineError: no answer in time. A command that writes may have been carried out.
        """
        self._open.check()
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                return await self._client.execute_command(*words)
        except TimeoutError:
            raise self._late() from None
        except _CALL_ERRORS as error:
            raise self._translated(error) from None

    async def value(self, size: int, *words: bytes | str | int) -> Answer:
        """As `call`, of a command that answers with `size` bytes: a large value comes faster, and as a bytearray."""
        if isinstance(self._client, RedisCluster) or size < _LARGE:
            return await self.call(*words)
        self._open.check()
        try:
            async with asyncio.timeout(self._timeout):
                async with self._slots:
                    answer = await fetched(self._client, size, *words)
                return await self.call(*words) if answer is None else answer
        except TimeoutError:
            raise self._late() from None
        except _CALL_ERRORS as error:
            raise self._translated(error) from None

    async def script(self, text: str, digest: str, key: str, *arguments: bytes | str | float) -> Answer:
        """What a Lua script returns, which the server keeps from its first call on.

        Args:
            text: of the script.
            digest: SHA-1 of the text, in hex.
            key: its one key, by which a Cluster finds the server; all keys that it touches share its hash tag.
            arguments: for the script.

        Raises:
            As `call`; IntegrityError also where a value is not what the script expects.
        """
        self._open.check()
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                try:
                    return await self._client.execute_command("EVALSHA", digest, 1, key, *arguments)
                except exceptions.NoScriptError:
                    return await self._client.execute_command("EVAL", text, 1, key, *arguments)
        except TimeoutError:
            raise self._late() from None
        except _CALL_ERRORS as error:
            raise self._translated(error) from None

    async def each(self, commands: Sequence[tuple[bytes | str | int, ...]]) -> list[Answer | KvquiltError]:
        """Answers to commands with small arguments and answers, in one round trip per server."""
        self._open.check()
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                cluster = isinstance(self._client, RedisCluster)
                pipeline = self._client.pipeline() if cluster else self._client.pipeline(transaction=False)
                for words in commands:
                    pipeline.execute_command(*words)
                answers = await pipeline.execute(raise_on_error=False)
        except TimeoutError:
            raise self._late() from None
        except _CALL_ERRORS as error:
            raise self._translated(error) from None
        return [self._translated(one) if isinstance(one, Exception) else one for one in answers]

    async def scan(self, pattern: str, count: int, pages: int = 0) -> AsyncIterator[list[bytes]]:
        """Names of the keys that match, page by page, of all servers; a name may come more than once.

        At most so many `pages` are read from each; 0: all.
        """
        targets: list[ClusterNode | None] = [None]
        if isinstance(self._client, RedisCluster):
            targets = [*self._client.get_primaries()]
        for target in targets:
            cursor, left = 0, pages
            while True:
                cursor, names = await self._page(target, cursor, pattern, count)
                if names:
                    yield names
                left -= 1
                if not cursor or not left:
                    break

    async def close(self) -> None:
        """Close all connections; commands under way fail."""
        if not self._open.closed:
            self._open.close()
            for client in (self._client, *self._sentinels):
                await client.aclose()
            if isinstance(self._client, RedisCluster):  # which leaves connections open while it looks for its servers
                for kind in ("nodes_cache", "startup_nodes"):
                    await self._client.nodes_manager.aclose(kind)

    async def _page(self, target: ClusterNode | None, cursor: int, pattern: str, count: int) -> tuple[int, list[bytes]]:
        self._open.check()
        where: dict[str, Any] = {} if target is None else {"target_nodes": target}
        try:
            async with asyncio.timeout(self._timeout), self._slots:
                answer = await self._client.scan(cursor=cursor, match=pattern, count=count, **where)
        except TimeoutError:
            raise self._late() from None
        except _CALL_ERRORS as error:
            raise self._translated(error) from None
        position: Any = answer[0]
        if isinstance(position, dict):  # of a Cluster: one cursor per server that was asked
            (position,) = position.values()
        return int(position), [name for name in answer[1] if isinstance(name, bytes)]

    def _late(self) -> DeadlineError:
        return DeadlineError(
            f"expected an answer of Redis at {self._url.where} within {self._timeout:g} s; none came: "
            "look at the server, or raise node.redis_timeout"
        )

    def _translated(self, error: Exception) -> KvquiltError:
        said = " ".join(str(error).partition(" : <")[0].split())[:200]  # without what Sentinels tell of objects
        where = f"Redis at {self._url.where}"
        if isinstance(error, KvquiltError):
            return error
        if isinstance(error, exceptions.TimeoutError | TimeoutError):
            return self._late()
        if isinstance(error, exceptions.OutOfMemoryError) or "used memory > 'maxmemory'" in said:
            return CapacityError(
                f"expected room in {where}; its maxmemory is reached: raise it, or lower node.capacity",
                reason="store_full",
            )
        refused = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)
        if isinstance(error, refused) or _REFUSED.search(said):
            return UnavailableError(
                f"expected {where} to accept the user and password of node.redis_url and to allow the command; "
                f"it said: {said}",
                reason="store_refused",
            )
        if said.startswith("WRONGTYPE") or (said.startswith("ERR") and "user_script" in said):
            return IntegrityError(f"expected a value of kvquilt under our key in {where}; another program's is there")
        if "CERTIFICATE" in said.upper() or "TLS" in said.upper() or "SSL" in said.upper():
            return UnavailableError(
                f"expected TLS with {where} that both sides accept; got: {said}: look at node.redis_ca, "
                "node.redis_certificate and node.redis_key",
                reason="store_refused",
            )
        if isinstance(error, exceptions.MovedError):
            return UnavailableError(f"expected a single server; {where} is part of a Cluster: use redis+cluster://")
        return UnavailableError(
            f"expected {where} to be reachable and able to serve; got {said or type(error)}: look at it, or at "
            "node.redis_url and the network"
        )


def _made(url: RedisUrl, options: RedisOptions) -> "tuple[Redis | RedisCluster, Sequence[Redis]]":
    """A client that has not connected yet, and those of its Sentinels."""
    common: dict[str, Any] = {
        "username": url.username,
        "password": url.password,
        "socket_timeout": options.timeout,
        "socket_connect_timeout": options.timeout,
        "protocol": 2,
        # A connection that the server closed while it idled is the common case; a late answer is not tried again.
        "retry": Retry(ExponentialWithJitterBackoff(cap=0.2, base=0.02), 1, (exceptions.ConnectionError,)),
    }
    tls = _tls(url, options)
    spare = options.connections + 4  # the semaphore is the limit; a pool of its own size would fail instead of wait
    if url.mode is RedisMode.CLUSTER:
        nodes = [ClusterNode(host, port) for host, port in url.hosts]
        return RedisCluster(startup_nodes=nodes, max_connections=spare, **common, **tls), ()
    common |= {"db": url.db, "max_connections": spare}
    if url.mode is RedisMode.SENTINEL:
        limits = {name: common[name] for name in ("socket_timeout", "socket_connect_timeout", "protocol", "retry")}
        opened: Any = Sentinel  # without types
        sentinels = opened(list(url.hosts), sentinel_kwargs=limits | tls, **common, **tls)
        return sentinels.master_for(url.service), sentinels.sentinels
    if url.socket:
        return Redis(unix_socket_path=url.socket, **common), ()
    ((host, port),) = url.hosts
    return Redis(host=host, port=port, **common, **tls), ()


def _tls(url: RedisUrl, options: RedisOptions) -> dict[str, Any]:
    files = {"redis_ca": options.ca, "redis_certificate": options.certificate, "redis_key": options.key}
    if not url.tls:
        if any(files.values()):
            raise BadRequestError("expected a URL that begins with rediss for TLS; got certificates for one without")
        return {}
    if (options.certificate is None) != (options.key is None):
        raise BadRequestError("expected node.redis_certificate and node.redis_key together; got one of them")
    for name, file in files.items():
        if file is not None and not file.is_file():
            raise BadRequestError(f"expected a PEM file as node.{name}; {file} is none")
    try:  # the library would fail at the first connection, with less to say
        context = ssl.create_default_context(cafile=options.ca)
        if options.certificate is not None:
            context.load_cert_chain(options.certificate, options.key)
    except (OSError, ValueError) as error:
        raise BadRequestError(f"expected PEM files that belong together; got {error}") from None
    return {
        "ssl": True,
        "ssl_ca_certs": None if options.ca is None else str(options.ca),
        "ssl_certfile": None if options.certificate is None else str(options.certificate),
        "ssl_keyfile": None if options.key is None else str(options.key),
    }
