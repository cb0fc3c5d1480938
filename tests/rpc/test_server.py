"""The server chassis: where it listens, and what it says when it cannot."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.security import ServerSecurity
from kvquilt_rpc.server import LIVENESS, RpcServer
from tests.rpc.certificates import Authority, Signer


async def health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
        return answer.status


def serve(server: RpcServer, answer: bytes, before: Callable[[], Awaitable[None]] | None = None) -> None:
    """One call of one service, `/some.Service/Wait`."""

    async def wait(_request: bytes, _context: object) -> bytes:
        if before is not None:
            await before()
        return answer

    handler = grpc.unary_unary_rpc_method_handler(wait, lambda request: request, lambda said: said)
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("some.Service", {"Wait": handler}),))


async def test_a_free_port_is_taken_and_told() -> None:
    server = RpcServer("127.0.0.1", 0, ["some.Service"])
    address = await server.start()
    host, port = address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0
    assert await health(address) == await health(address, "some.Service") == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await health(address, "another.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    await server.drain(0)


async def test_a_taken_port_is_refused_with_advice() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"127.0.0.1:{port}.*choose another port"):
            await RpcServer("127.0.0.1", port, []).start()


async def test_two_servers_do_not_share_a_port() -> None:
    first = RpcServer("127.0.0.1", 0, [])
    port = int((await first.start()).rpartition(":")[2])
    with pytest.raises(UnavailableError, match="choose another port"):
        await RpcServer("127.0.0.1", port, []).start()
    await first.drain(0)


async def test_a_port_is_free_again_after_the_drain() -> None:
    first = RpcServer("127.0.0.1", 0, [])
    address = await first.start()
    await first.drain(0)
    second = RpcServer("127.0.0.1", int(address.rpartition(":")[2]), [])
    assert await second.start() == address
    assert await health(address) == health_pb2.HealthCheckResponse.SERVING
    await second.drain(0)


async def test_a_host_that_is_not_ours_is_refused_with_advice() -> None:
    with pytest.raises(UnavailableError, match=r"expected to listen on 203\.0\.113\.7:0"):
        await RpcServer("203.0.113.7", 0, [], ServerSecurity(allow_anonymous=True)).start()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_an_ipv6_address_is_told_so_that_it_can_be_dialled() -> None:
    server = RpcServer("::1", 0, [])
    address = await server.start()
    assert address.startswith("[::1]:")
    assert await health(address) == health_pb2.HealthCheckResponse.SERVING
    await server.drain(0)


async def test_a_unix_socket_is_for_this_machine_and_needs_no_port(tmp_path) -> None:
    server = RpcServer(f"unix:{tmp_path}/s", 7410, [])
    address = await server.start()
    assert address == f"unix:{tmp_path}/s"
    assert await health(address) == health_pb2.HealthCheckResponse.SERVING
    await server.drain(0)


async def test_health_has_a_port_of_its_own_that_knows_neither_tls_nor_tokens(tmp_path) -> None:
    authority = Authority.new(tmp_path / "ca")
    party = authority.issue("server", "127.0.0.1")
    token_key = Signer.new(tmp_path / "tokens").public
    security = ServerSecurity(tls_cert=party.cert, tls_key=party.key, tls_client_ca=authority.pem, token_key=token_key)
    server = RpcServer("127.0.0.1", 0, ["some.Service"], security, health_port=0)
    main = await server.start()
    assert server.health_address not in (None, main)
    for service in ("", "some.Service", LIVENESS):
        assert await health(server.health_address, service) == health_pb2.HealthCheckResponse.SERVING
    async with grpc.aio.insecure_channel(server.health_address) as channel:
        reflected = channel.unary_unary("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflected(b"", timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    await server.drain(0)


async def test_a_server_that_drains_is_alive_and_not_ready_until_its_calls_are_done() -> None:
    server = RpcServer("127.0.0.1", 0, [], health_port=0)
    called, may_end = asyncio.Event(), asyncio.Event()

    async def busy() -> None:
        called.set()
        await may_end.wait()

    serve(server, b"done", busy)
    address = await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        running = asyncio.ensure_future(channel.unary_unary("/some.Service/Wait")(b"", timeout=60))
        await called.wait()
        draining = asyncio.create_task(server.drain(60))
        while await health(server.health_address) != health_pb2.HealthCheckResponse.NOT_SERVING:
            pass
        assert await health(server.health_address, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        may_end.set()
        assert await running == b"done"
        await draining


async def test_clients_take_the_servers_of_a_name_at_random() -> None:
    servers = [RpcServer("127.0.0.1", 0, []) for _ in range(2)]
    for number, server in enumerate(servers):
        serve(server, bytes([number]))
    addresses = [await server.start() for server in servers]
    answers = set()
    while len(answers) < 2:  # the test's own timeout is the limit
        async with open_channel("ipv4:" + ",".join(addresses)) as channel:
            answers.add(await channel.unary_unary("/some.Service/Wait")(b"", timeout=60))
    for server in servers:
        await server.drain(0)
