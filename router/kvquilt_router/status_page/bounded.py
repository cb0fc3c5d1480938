"""An HTTP server that no client can hold up: uvicorn, with bounds on connections and on how long they last."""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

MAX_CONNECTIONS = 64
"""Further ones are closed at once."""
CONNECTION_SECONDS = 30.0
"""After so long a connection is closed, whatever it does; browsers make another."""
IDLE_SECONDS = 10
MAX_HEADER_BYTES = 16 << 10


class _Bounded(H11Protocol):
    """A connection that does not last."""

    _end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            transport.abort()
            return
        self._end = self.loop.call_later(CONNECTION_SECONDS, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the router's."""
        yield


def bounded_server(app: Any, tls: ssl.SSLContext | None) -> uvicorn.Server:
    """A server for sockets that are given to `serve`; it ends when its `should_exit` is set."""
    config = uvicorn.Config(
        app,
        http=_Bounded,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=1,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ssl_context_factory=None if tls is None else lambda *_: tls,
    )
    return _Server(config)
