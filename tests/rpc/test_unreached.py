"""Who calls nobody, or somebody else than kvquilt, is told what was expected, what is there and what to do."""

import asyncio

import grpc
import pytest

from kvquilt_codec.errors import BadRequestError, KvquiltError, UnavailableError
from kvquilt_rpc import unreached
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.node_client import NodeClient
from tests.rpc.sessions import tcp_server

DEADLINE = 20.0


async def refused(address: str) -> KvquiltError:
    client = NodeClient(address)
    try:
        with pytest.raises(KvquiltError) as caught:
            await client.stat([bytes(32)], deadline=DEADLINE)
    finally:
        await client.close()
    return caught.value


async def test_nobody_listens() -> None:
    error = await refused("127.0.0.1:1")
    assert isinstance(error, UnavailableError)
    assert str(error).startswith("expected a server of kvquilt at 127.0.0.1:1; got: Connection refused; start it, or ")


async def test_something_else_listens() -> None:
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    async with tcp_server(web) as address:
        error = await refused(address)
    assert isinstance(error, UnavailableError)
    assert error.reason == "unavailable"
    assert f"kvquilt at {address}" in str(error)
    assert "something else listens there" in str(error)


async def test_another_part_of_kvquilt_listens() -> None:
    server = grpc.aio.server()  # knows no call of a node
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        error = await refused(f"127.0.0.1:{port}")
    finally:
        await server.stop(0)
    assert str(error) == unreached.UNKNOWN_CALL


def test_a_name_has_no_address() -> None:
    said = (
        "errors resolving host.invalid:7410: [field:hostname lookup error:address lookup failed for host.invalid:7410: "
        "Domain name not found]"
    )
    message, reason = unreached.explained(said)
    assert message.startswith("expected a name with an address; got host.invalid:7410: Domain name not found; mend ")
    assert reason is None


def test_what_is_not_known_stays_as_it_is() -> None:
    assert unreached.explained("Deadline Exceeded") == ("Deadline Exceeded", None)


@pytest.mark.parametrize("target", ["localhost", "127.0.0.1:99999", "http://127.0.0.1:7410", "dns:///name", ""])
def test_what_is_no_address_is_refused_before_anybody_is_called(target: str) -> None:
    with pytest.raises(BadRequestError, match="expected a server as HOST:PORT"):
        open_channel(target)
