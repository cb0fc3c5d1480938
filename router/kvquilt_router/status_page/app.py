"""The status page as an ASGI application: two paths, nothing that changes anything."""

import base64
import hashlib
import ipaddress
from collections.abc import Awaitable, Callable, Collection, Sequence
from importlib import resources
from typing import Any

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kvquilt_codec import errors
from kvquilt_router.status_page.data import PageData
from kvquilt_rpc.authentication import AUTHORIZATION, Authenticator
from kvquilt_rpc.callers import ANONYMOUS, Identity
from kvquilt_rpc.limits import Limiter
from kvquilt_rpc.refusing import Refusing

DATA_PATH = "/status.json"
_STATUS: tuple[tuple[type[errors.KvquiltError], int], ...] = (
    (errors.UnauthenticatedError, 401),
    (errors.PermissionDeniedError, 403),
    (errors.BadRequestError, 400),
    (errors.NotFoundError, 404),
    (errors.CapacityError, 429),
    (errors.KvquiltError, 503),
)
_REFUSALS = (errors.UnauthenticatedError, errors.PermissionDeniedError, errors.CapacityError)
_HEADERS = {
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

Headers = Sequence[tuple[bytes, bytes]]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


class _HttpCall:
    """An HTTP request as `Authenticator` reads a call: a bearer token counts, and nothing else."""

    def __init__(self, request: Request) -> None:
        self._token = request.headers.get(AUTHORIZATION, "")

    def invocation_metadata(self) -> Sequence[tuple[str, str | bytes]]:
        return [(AUTHORIZATION, self._token)]

    def auth_context(self) -> dict[str, Sequence[bytes]]:
        return {}


class StatusPage:
    """Answers browsers.

    Args:
        data: see there.
        authenticator: tells who asks.
        limiter: of identities.
        refusing: counts and logs who is not let in.
        names: DNS names by which the page may be asked for.
    """

    def __init__(
        self,
        data: PageData,
        authenticator: Authenticator,
        limiter: Limiter,
        refusing: Refusing,
        names: Collection[str],
    ) -> None:
        self._data = data
        self._authenticator = authenticator
        self._limiter = limiter
        self._refusing = refusing
        self._page, self._policy = _page()
        app = Starlette(routes=[Route("/", self._shown), Route(DATA_PATH, self._told)])
        self.asgi = _only_as(app, frozenset(name.lower().rstrip(".") for name in names))

    async def _shown(self, _: Request) -> Response:
        """The page, which holds no data: everybody who reaches it may have it."""
        headers = {**_HEADERS, "Content-Security-Policy": self._policy, "X-Frame-Options": "DENY"}
        return Response(self._page, media_type="text/html; charset=utf-8", headers=headers)

    async def _told(self, request: Request) -> Response:
        try:
            identity = self._identity(request)
            with self._limiter.admit(identity.name):
                return _json(await self._data.get(identity, request.query_params.get("request", "")))
        except errors.KvquiltError as error:
            if isinstance(error, _REFUSALS):
                self._refusing.refused(DATA_PATH, request.client.host if request.client else "", error)
            return _failed(error)

    def _identity(self, request: Request) -> Identity:
        if self._authenticator.open:
            return ANONYMOUS
        if AUTHORIZATION not in request.headers:
            raise errors.UnauthenticatedError(
                "expected a bearer token; got none: make one with `kvquilt token create`", reason="token_missing"
            )
        return self._authenticator.identify(_HttpCall(request))


def _json(content: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = msgspec.json.encode(content)
    policy = {"Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'"}
    return Response(body, status, {**_HEADERS, **policy, **(headers or {})}, media_type="application/json")


def _failed(error: errors.KvquiltError) -> Response:
    status = next(code for kind, code in _STATUS if isinstance(error, kind))
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return _json({"error": {"reason": error.reason, "message": str(error)}}, status, headers)


def _page() -> tuple[bytes, str]:
    """The page with its style and script in it, and the policy that allows these two and nothing else."""
    folder = resources.files(__package__)
    html, style, script = ((folder / f"page.{kind}").read_text("utf-8") for kind in ("html", "css", "js"))
    page = html.replace("/*STYLE*/", style).replace("/*SCRIPT*/", script)
    policy = (
        "default-src 'none'; connect-src 'self'; img-src data:; "
        f"script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    )
    return page.encode(), policy


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _only_as(app: Asgi, names: Collection[str]) -> Asgi:
    """Answers only browsers that ask for this server: by an address, as localhost, or by one of its names.

    A page of another origin whose name was made to lead here would else be the same origin to a browser.
    """

    async def checked(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and not _known(scope["headers"], names):
            refusal = errors.BadRequestError(
                "expected this server's address, localhost or one of router.status_names in Host; got another name",
                reason="unknown_host",
            )
            await _failed(refusal)(scope, receive, send)
            return
        await app(scope, receive, send)

    return checked


def _known(headers: Headers, names: Collection[str]) -> bool:
    hosts = [value.decode("latin-1") for name, value in headers if name == b"host"]
    if len(hosts) != 1:
        return False
    host = hosts[0].rsplit(":", 1)[0] if not hosts[0].endswith("]") else hosts[0]
    host = host.lower().rstrip(".")
    if host == "localhost" or host in names:
        return True
    try:
        ipaddress.ip_address(host[1:-1] if host.startswith("[") and host.endswith("]") else host)
    except ValueError:
        return False
    return True
