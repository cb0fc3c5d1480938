"""LMCache's own server in a process, and its own benchmark's client, which stands for a serving engine."""

import contextlib
import dataclasses
import functools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmcache.cli.commands.bench.server_bench import helpers
from lmcache.cli.commands.bench.server_bench.client import RequestContext, ServerBenchClient
from lmcache.cli.commands.bench.server_bench.config import BenchConfig

from tests.servers.process import HOST, Process, free_ports

SHAPES = "(2,256,16,3,64):bfloat16:30"
"""KV of SmolLM2-135M in pages of 16 tokens."""
CHUNK_BYTES = 2 * 30 * 256 * 192 * 2
CHUNKS = 4
_ENVIRONMENT = {"LMCACHE_DISABLE_BANNER": "1", "LMCACHE_TRACK_USAGE": "false", "OMP_NUM_THREADS": "1"}


@dataclass
class Server(Process):
    """`lmcache server`; its first tier is empty when it starts."""

    rpc: str = ""
    http: str = ""

    @property
    def status(self) -> dict[str, Any]:
        """What it says of itself."""
        return json.loads(_get(f"{self.http}/status"))

    @property
    def counters(self) -> dict[str, int]:
        """Of our adapter."""
        return self.status["storage_manager"]["l2_adapters"][0]["counters"]

    @property
    def said(self) -> str:
        """What it printed."""
        return (self.folder / "output").read_text(errors="replace")


def server_at(folder: Path, *nodes: str, **parameters: object) -> Server:
    """A server with our adapter at free ports."""
    rpc, http, metrics = free_ports(3)
    plugin = {
        "type": "plugin",
        "module_path": "kvquilt.integrations.lmcache",
        "class_name": "KvquiltL2Adapter",
        "adapter_params": {"nodes": list(nodes), **parameters},
    }
    options = {
        "host": HOST, "transport": "grpc", "port": rpc, "http-host": HOST, "http-port": http,
        "prometheus-port": metrics, "l1-size-gb": 1, "eviction-policy": "LRU", "chunk-size": 256,
        "supported-transfer-mode": "auto",
        "l2-adapter": json.dumps(plugin),
    }  # fmt: skip
    lmcache = str(Path(sys.executable).with_name("lmcache"))
    arguments = [lmcache, "server", *(text for name, value in options.items() for text in (f"--{name}", str(value)))]
    url = f"http://{HOST}:{http}"
    return Server(
        arguments, folder, lambda: _answers(url), dict(_ENVIRONMENT), 240.0, rpc=f"grpc://{HOST}:{rpc}", http=url
    )


class Engine:
    """An engine with random KV: stores chunks of a prompt, looks them up, and loads them into zeroed pages."""

    def __init__(self, client: ServerBenchClient) -> None:
        self._client = client
        self._requests = 0

    def store(self, prompt: int, salt: str = "") -> list[str]:
        """Store all chunks of a prompt; their checksums."""
        with self._request(prompt, salt) as request:
            checksums = self._client.compute_checksums(request, 0, request.num_full_tokens)
            done = self._client.store(request, 0, request.num_full_tokens)
            assert done is not None
            assert done.succeeded
            assert checksums is not None
            return checksums

    def load(self, prompt: int, salt: str = "") -> list[str]:
        """Checksums of the chunks that were found and loaded, from the first on."""
        with self._request(prompt, salt) as request:
            found = self._client.lookup(request)
            assert found.succeeded
            tokens = found.hit_chunks * request.chunk_size
            if not tokens:
                return []
            self._client.zero_destination(request, 0, request.num_full_tokens)
            done = self._client.retrieve(request, 0, tokens)
            assert done is not None
            assert done.succeeded
            return self._client.compute_checksums(request, 0, tokens) or []

    @contextmanager
    def _request(self, prompt: int, salt: str) -> Iterator[RequestContext]:
        self._requests += 1
        request = self._client.create_request(prompt, f"{id(self)}-{self._requests}", "request")
        assert request is not None
        make = helpers._make_key
        helpers._make_key = lambda *args, **options: _salted(make(*args, **options), salt)
        try:
            yield request
            self._client.end_session(request)
        finally:
            helpers._make_key = make


@contextmanager
def engine(server: Server) -> Iterator[Engine]:
    """An engine that is connected to a server; its KV is the same each time."""
    config = BenchConfig(server.rpc, server.http, "cpu", "auto", 1, False, CHUNKS * 256, SHAPES, 256, 16)
    poll = helpers._poll_prefetch_status
    # The benchmark gives up after 2.5 s, which a busy machine may take.
    helpers._poll_prefetch_status = functools.partial(poll, max_polls=2400)
    try:
        with contextlib.closing(ServerBenchClient(config, print)) as client:
            client.start()
            yield Engine(client)
    finally:
        helpers._poll_prefetch_status = poll


def _salted(key: Any, salt: str) -> Any:
    return dataclasses.replace(key, cache_salt=salt)


def _answers(url: str) -> bool:
    try:
        return bool(_get(f"{url}/healthcheck"))
    except (urllib.error.URLError, OSError):
        return False


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as response:  # noqa: S310  an address of ours
        return response.read()
