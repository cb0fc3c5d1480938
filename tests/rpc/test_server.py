"""The server chassis: where it listens, and what it says when it cannot."""

import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.security import ServerSecurity
from kvquilt_rpc.server import RpcServer


async def health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=20)
        return answer.status


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
