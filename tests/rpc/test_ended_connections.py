"""Connections that a server ends, before and after it has said anything."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.node_batches import Wanted
from kvquilt_rpc.node_client import NodeClient
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.rpc.sessions import tcp_server

DEADLINE = 20.0
KEY = bytes(32)
SETTINGS = bytes(3) + b"\4" + bytes(5)
"""The first HTTP/2 frame of a server."""


@pytest.mark.parametrize(("says", "reason"), [(b"", "tls_handshake"), (SETTINGS, "unavailable")])
async def test_a_connection_that_ends_is_a_matter_of_tls_only_if_nothing_was_said(says: bytes, reason: str) -> None:
    async def end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(says)
        await reader.readuntil(b"StatChunks" if says else b"SM\r\n\r\n")

    async with tcp_server(end) as address:
        client = NodeClient(address)
        try:
            with pytest.raises(UnavailableError) as caught:
                await client.stat([bytes(32)], deadline=DEADLINE)
        finally:
            await client.close()
    assert caught.value.reason == reason


CALLS: dict[str, Callable[[NodeClient], Awaitable[object]]] = {
    "a call": lambda client: client.stat([KEY], deadline=DEADLINE),
    "a stream": lambda client: anext(client.get(KEY, FINGERPRINT, deadline=DEADLINE)),
    "a batch": lambda client: anext(client.batches.get([Wanted(KEY)], FINGERPRINT, deadline=DEADLINE)),
    "an upload": lambda client: client.put(*make_object(make_chunk()), deadline=DEADLINE),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_on_a_connection_that_was_closed_meanwhile_the_node_is_unavailable(
    call: Callable[[NodeClient], Awaitable[object]],
) -> None:
    client = NodeClient("127.0.0.1:1")
    await client.close()
    with pytest.raises(UnavailableError, match="closed meanwhile"):
        await call(client)
