"""Server chassis: who may call, limits, health, reflection, graceful drain."""

import asyncio
import time
from collections.abc import Collection, Sequence

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from kvquilt_codec.errors import UnavailableError
from kvquilt_rpc.admission import Lanes, Slots
from kvquilt_rpc.authentication import Authenticator
from kvquilt_rpc.channel import KEEPALIVE_MS, MESSAGE_OPTIONS
from kvquilt_rpc.counters import CALL_COUNTERS, Counters
from kvquilt_rpc.guard import Guard
from kvquilt_rpc.limits import Limiter, Limits
from kvquilt_rpc.metrics.calls import CallMeter
from kvquilt_rpc.running import RunningCalls
from kvquilt_rpc.security import ServerSecurity
from kvquilt_rpc.tls import is_unix
from kvquilt_rpc.token_ends import TokenEnd

MAX_CALLS = 256
"""Served at once where a server is not told otherwise."""
MAX_CONCURRENT_CALLS = 1024
"""Beyond it gRPC itself refuses, health too: it bounds what calls take that are about to be refused."""
LIVENESS = "liveness"
"""Name under which the health service says that the process answers; it goes on saying so while it drains."""
_SETTLE_SECONDS = 0.05
"""What has arrived is taken, before a server begins to stop."""


class RpcServer:
    """A gRPC server with the standard health and reflection services.

    Args:
        host: address to listen on, or `unix:PATH`: a socket for whoever may write to it and reach its folder.
        port: 0 takes a free port; a Unix socket has none.
        services: full names of the services that are added to `server` before `start`.
        security: whom it lets in; by default everybody, on loopback only.
        counters: `CALL_COUNTERS` count what was refused.
        lanes: how many calls run at once, and which wait; by default `MAX_CALLS` run and none waits.
        health_port: where the health service answers in clear and alone, beside the port above: Kubernetes' gRPC probes
            know no TLS and no credentials. 0 takes a free port; `None`: nowhere else.
        max_connection_age: seconds, a tenth more or less, after which a connection takes no new calls: clients make
            another one, and find servers that were added since. Running calls go on. 0: never.
        operators: methods (`/SERVICE/NAME`) that are not counted in `running`.

    Attributes:
        security: as given.
        meter: of its calls.
        serving: what the health service says.
        running: the calls that run now, those of the health service not counted.
        lanes: as given, or by default.
        health_address: of the health port as `host:port`, once it is started; `None`: there is none.

    Raises:
        NotFoundError, BadRequestError: `security` cannot be used on this address; see `Authenticator`.
    """

    def __init__(
        self,
        host: str,
        port: int,
        services: Sequence[str],
        security: ServerSecurity | None = None,
        counters: Counters | None = None,
        health_port: int | None = None,
        max_connection_age: float = 0.0,
        operators: Collection[str] = (),
        lanes: Lanes | None = None,
    ) -> None:
        counters = counters or Counters(CALL_COUNTERS)
        security = security or ServerSecurity()
        limits = Limits(security.calls_per_second, security.calls_at_once, int(security.bytes_per_second))
        authenticator = Authenticator(security, host)
        self._tls = authenticator.tls
        self._authenticator = authenticator
        self.security = security
        self.meter = CallMeter(services)
        self.serving = False
        self.lanes = lanes or Lanes(Slots("calls", MAX_CALLS, 0, counters, surely=MAX_CALLS), {})
        self.running = RunningCalls(operators)
        limiter = Limiter(limits, time.monotonic)
        guard = Guard(authenticator, limiter, self.lanes, counters, self.running, self.meter)
        options = [
            *MESSAGE_OPTIONS,
            ("grpc.so_reuseport", 0),
            ("grpc.keepalive_permit_without_calls", 1),
            # By default pings within five minutes of silence count as abuse, and a stream that said nothing for four
            # minutes was cut off (a prefetch on a busy machine).
            ("grpc.http2.min_ping_interval_without_data_ms", KEEPALIVE_MS // 2),
        ]
        if max_connection_age:
            options.append(("grpc.max_connection_age_ms", max(1, round(max_connection_age * 1000))))
        self.server = grpc.aio.server(
            interceptors=[guard], options=options, maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
        )
        self._host = host
        self._port = port
        self._services = ("", *services)
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection([*services, health.SERVICE_NAME, reflection.SERVICE_NAME], self.server)
        self._probed: grpc.aio.Server | None = None
        self._health_port = health_port
        self.health_address: str | None = None
        if health_port is not None:
            self._probed = grpc.aio.server(
                options=[("grpc.so_reuseport", 0)], maximum_concurrent_rpcs=MAX_CONCURRENT_CALLS
            )
            health_pb2_grpc.add_HealthServicer_to_server(self._health, self._probed)

    @property
    def token_keys(self) -> int:
        """How many keys bearer tokens are verified by."""
        return self._authenticator.token_keys

    @property
    def token_ends(self) -> dict[str, TokenEnd]:
        """When bearer tokens that callers use expire, by their first namespace; of each the one with the least left."""
        return self._authenticator.token_ends

    async def start(self) -> str:
        """Listen and serve; return the address as `host:port`, or that of the Unix socket.

        Raises:
            UnavailableError: an address cannot be listened on.
        """
        address = _listen(self.server, self._host, self._port, self._tls)
        if self._probed is not None and self._health_port is not None:
            self.health_address = _listen(self._probed, self._host, self._health_port, None)
            await self._probed.start()
        await self.server.start()
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        await self.set_ready(True)
        return address

    async def set_ready(self, ready: bool) -> None:
        """Say by the health service whether new calls are wanted. They are served in either case."""
        self.serving = ready
        health_of = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._health.set(service, health_of.SERVING if ready else health_of.NOT_SERVING)

    async def drain(self, grace_seconds: float) -> None:
        """Report not serving, accept no new calls, give running ones time to finish, then stop."""
        await self.set_ready(False)
        # gRPC cancels calls that have arrived and that no handler has seen; after this there are few.
        await asyncio.sleep(_SETTLE_SECONDS)
        await self.server.stop(grace_seconds)
        if self._probed is not None:
            await self._probed.stop(0)


def _listen(server: grpc.aio.Server, host: str, port: int, tls: grpc.ServerCredentials | None) -> str:
    address = _address(host, port)
    try:
        taken = server.add_insecure_port(address) if tls is None else server.add_secure_port(address, tls)
    except RuntimeError:  # gRPC's words say less than what it logs beside them
        raise UnavailableError(
            f"expected to listen on {address}; another process does, or the address is none of this machine's: end "
            "that process (`ss -ltnp` names it), or choose another port or host"
        ) from None
    return _address(host, taken)


def _address(host: str, port: int) -> str:
    if is_unix(host):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
