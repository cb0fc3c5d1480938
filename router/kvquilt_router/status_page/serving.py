"""Runs the status page beside the router's calls, in the same event loop: bounded in connections and in time."""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import AsyncIterator

from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_router.overview import Overview
from kvquilt_router.settings import RouterSettings
from kvquilt_router.status_page.checking import check_status_page
from kvquilt_rpc.authentication import Authenticator
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.limits import Limiter, Limits
from kvquilt_rpc.refusing import Refusing
from kvquilt_rpc.tls import server_context

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def status_page_served(
    settings: RouterSettings, overview: Overview, counters: Counters
) -> AsyncIterator[str | None]:
    """Serve the status page within this context; yields its URL, or `None` if the settings name no port.

    Raises:
        BadRequestError: the packages for it are not installed; see also `check_status_page`.
        UnavailableError: the address cannot be listened on.
    """
    if settings.status_port is None:
        yield None
        return
    check_status_page(settings)
    security = settings.security
    limits = Limits(security.calls_per_second, security.calls_at_once, int(security.bytes_per_second))
    try:
        from kvquilt_router.status_page.app import StatusPage
        from kvquilt_router.status_page.bounded import bounded_server
        from kvquilt_router.status_page.data import PageData
    except ModuleNotFoundError as error:
        raise BadRequestError(
            f"expected the package {error.name} for router.status_port; it is not installed: "
            "pip install 'kvquilt[status]'"
        ) from None
    page = StatusPage(
        PageData(overview, requests=settings.status_requests, text=settings.status_text),
        Authenticator(security, settings.status_host),
        Limiter(limits, time.monotonic),
        Refusing(counters),
        settings.status_names,
    )
    listening = _listening(settings.status_host, settings.status_port)
    host, port = listening.getsockname()[:2]
    tls = None
    if security.tls_cert is not None and security.tls_key is not None:
        tls = server_context(security.tls_cert, security.tls_key, security.tls_client_ca)
    server = bounded_server(page.asgi, tls)
    serving = asyncio.create_task(server.serve([listening]))
    url = f"{'http' if tls is None else 'https'}://{f'[{host}]' if ':' in host else host}:{port}/"
    log.info("the status page is on %s", url)
    try:
        yield url
    finally:
        server.should_exit = True
        await asyncio.gather(serving, return_exceptions=True)
        listening.close()


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server((str(place[0]), int(place[1])), family=family)
    except OSError as error:
        raise UnavailableError(
            f"expected to serve the status page on {host}:{port}; got {error}: choose others"
        ) from None
