"""Clocks: this machine's against every other one that something is timed by."""

import asyncio
import http.client
from collections.abc import AsyncIterator, Iterator
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.stores import node_redis
from kvquilt.doctoring.types import Part, Patient
from kvquilt.errors import KvquiltError
from kvquilt_rpc.tokens import LEEWAY_SECONDS

if TYPE_CHECKING:
    from kvquilt_cache_node.redis_url import RedisUrl
    from kvquilt_cache_node.store.redis_client import RedisClient

S3_SECONDS = 900.0
"""S3 refuses requests that are signed at another time than its own by more."""
_WARN = 1.0
_TOKENS = "tokens are taken until 5 s after they expire, and from 5 s before they hold: beyond that they are refused"
_S3 = "requests that are signed 15 min off are refused"
_REDIS = "leases and TTLs of an index in Redis go by its clock alone, those of an index that is rebuilt by the nodes'"


async def clocks(patient: Patient) -> Finding:
    """No clock is more than a second from this machine's."""
    wrong, near, good = [], [], []
    async for who, ahead, doubt, most, why in _others(patient):
        told = f"{who} {ahead:+.1f} s (±{doubt:.1f})"
        off = max(0.0, abs(ahead) - doubt)
        if off > most:
            wrong.append(f"{told}: {why}")
        elif off > _WARN:
            near.append(told)
        else:
            good.append(told)
    if not wrong and not near and not good:
        raise SkippedError("nobody else's clock could be read")
    outcome = Outcome.FAILED if wrong else Outcome.WARNED if near else Outcome.PASSED
    advice = "let a time service (chrony, systemd-timesyncd) set it" if wrong or near else ""
    return Finding(outcome, promise(clocks), "; ".join([*wrong, *near, *good]), advice)


async def _others(patient: Patient) -> AsyncIterator[tuple[str, float, float, float, str]]:
    """Who, seconds ahead, doubt, most that is allowed, and what comes of more."""
    if patient.status is not None:
        yield "router", *patient.status_ahead, LEEWAY_SECONDS, _TOKENS
    for node in patient.nodes:
        if node.status is not None:
            yield f"node {node.target}", node.ahead, node.doubt, LEEWAY_SECONDS, _TOKENS
    if Part.NODE not in patient.parts:
        return
    for url, client in _clients(patient):
        from kvquilt_cache_node.store.redis_rights import server_time

        try:
            before = patient.clock()
            theirs = await server_time(client)
            after = patient.clock()
        except KvquiltError:
            continue
        finally:
            await client.close()
        yield f"redis {url.where}", theirs - (before + after) / 2, (after - before) / 2, LEEWAY_SECONDS, _REDIS
    if patient.node.store == "object" and patient.node.object_endpoint:
        before = patient.clock()
        date = await asyncio.to_thread(_date, patient.node.object_endpoint, patient.patience)
        after = patient.clock()
        if date is not None:  # which is in whole seconds
            yield "object storage", date + 0.5 - (before + after) / 2, (after - before) / 2 + 0.5, S3_SECONDS, _S3


def _clients(patient: Patient) -> "Iterator[tuple[RedisUrl, RedisClient]]":
    try:
        for _, url, client in node_redis(patient):
            yield url, client
    except (SkippedError, KvquiltError):
        return


def _date(endpoint: str, seconds: float) -> float | None:
    """What an HTTP service says that it is."""
    parts = urlsplit(endpoint)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=seconds)
    try:
        connection.request("HEAD", "/")
        said = connection.getresponse().getheader("Date")
        return None if said is None else parsedate_to_datetime(said).timestamp()
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()
