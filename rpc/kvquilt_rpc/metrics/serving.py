"""Serves metrics over HTTP, in the formats of Prometheus and OpenMetrics: `prometheus-client` writes them.

The event loop, which serves calls, only sets the values; the text is made, and waited for, in threads. What the library
gives is one page to whoever can reach the port, without credentials and without TLS.
"""

import asyncio
import contextlib
import logging
import socket
import socketserver
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_rpc.metrics.families import families
from kvquilt_rpc.metrics.types import Metric, MetricsSettings
from kvquilt_rpc.metrics.values import Collect, Values

log = logging.getLogger(__name__)

PATH = "/metrics"
COLLECT_SECONDS = 5.0
"""Until a server that is busy has set its values, or a scrape before this one is done; then the answer is a 503."""
MAX_CONNECTIONS = 16
"""Further ones are closed at once."""
READ_SECONDS = 5.0
"""That a client may be silent while it sends its request."""
CONNECTION_SECONDS = 30.0
"""After so long a connection is closed, whatever it does."""

Start = Callable[[str, list[tuple[str, str]]], object]
Application = Callable[[dict[str, Any], Start], Iterable[bytes]]


@contextlib.asynccontextmanager
async def metrics_served(
    settings: MetricsSettings, declared: Sequence[Metric], collect: Collect
) -> AsyncIterator[str | None]:
    """Serve metrics within this context; yields the address as `host:port`, or `None` if the settings name no port.

    Args:
        settings: see there.
        declared: all metrics of the server.
        collect: sets their values; it may take `COLLECT_SECONDS`.

    Raises:
        BadRequestError: `prometheus-client` is not installed.
        UnavailableError: the address cannot be listened on.
    """
    if settings.metrics_port is None:
        yield None
        return
    collector = _Collector(declared, collect, asyncio.get_running_loop())
    server = _server(settings.metrics_host, settings.metrics_port, _application(collector))
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    host, port = server.server_address[:2]
    address = f"[{host!s}]:{port}" if ":" in str(host) else f"{host!s}:{port}"
    log.info("metrics are on http://%s%s", address, PATH)
    try:
        yield address
    finally:
        await asyncio.to_thread(server.shutdown)
        server.server_close()
        thread.join()


class _Collector:
    """What a registry asks, in the thread of a scrape."""

    def __init__(self, declared: Sequence[Metric], collect: Collect, loop: asyncio.AbstractEventLoop) -> None:
        self._declared = declared
        self._collect = collect
        self._loop = loop

    def describe(self) -> Iterator[Any]:
        """The names of all metrics, without values."""
        return families(Values(self._declared))

    def collect(self) -> Iterator[Any]:
        """All metrics.

        Raises:
            UnavailableError: the server is too busy.
        """
        asked = asyncio.run_coroutine_threadsafe(self._values(), self._loop)
        try:
            return families(asked.result(COLLECT_SECONDS))
        except TimeoutError:
            asked.cancel()
            raise UnavailableError(f"expected this server's values within {COLLECT_SECONDS:g} s; it is busy") from None

    async def _values(self) -> Values:
        values = Values(self._declared)
        await self._collect(values)
        return values


def _application(collector: _Collector) -> Application:
    """Answers requests for the page, one at a time."""
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app
    except ModuleNotFoundError as error:
        raise BadRequestError(
            f"expected the package {error.name} for metrics_port; it is not installed: pip install 'kvquilt[metrics]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    page: Application = make_wsgi_app(registry)
    turn = threading.Lock()

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        if environ.get("PATH_INFO") != PATH:
            return _said(start, "404 Not Found", f"metrics are at {PATH}")
        if not turn.acquire(timeout=COLLECT_SECONDS):
            return _said(start, "503 Service Unavailable", "another scrape is under way")
        try:
            return page(environ, start)
        except Exception as error:  # noqa: BLE001  the boundary: a scrape that fails is the scraper's to know
            log.warning("a scrape failed: %s", error)
            return _said(start, "503 Service Unavailable", "the values could not be collected; the log says why")
        finally:
            turn.release()

    return answer


def _said(start: Start, status: str, text: str) -> Iterable[bytes]:
    start(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{text}\n".encode()]


class _Handler(WSGIRequestHandler):
    timeout = READ_SECONDS

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, family: socket.AddressFamily, address: tuple[str, int]) -> None:
        self.address_family = family
        self._free = threading.Semaphore(MAX_CONNECTIONS)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """As that of `HTTPServer`, which would look up a name of the address and may wait for it."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = map(str, self.server_address[:2])  # type: ignore[assignment]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, if there are not too many."""
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection, for a limited time."""
        limit = threading.Timer(CONNECTION_SECONDS, _end, (request,))
        limit.daemon = True
        limit.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            limit.cancel()
            self._free.release()

    def handle_error(self, *_: object) -> None:
        """A client that was late or went away is no error of the server."""
        log.debug("a request for metrics ended early", exc_info=True)


def _end(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _server(host: str, port: int, application: Application) -> _Server:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        server = _Server(family, (str(place[0]), int(place[1])))
    except OSError as error:
        raise UnavailableError(f"expected to serve metrics on {host}:{port}; got {error}: choose others") from None
    server.set_app(application)
    return server
