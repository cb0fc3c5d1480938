"""Middleware for `vllm serve` that says in response headers what the cache did, for clients that drop unknown fields.

Switched on with `--middleware kvquilt.integrations.vllm.middleware.CacheHeaders`. Streamed answers pass as they are: at
their beginning, where headers are, vLLM tells no parameters.
"""

import json
import string
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from kvquilt.integrations.vllm.options import PARAMETER

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HEADERS = ("tokens_exact", "tokens_blended", "reason", "request_id")
"""Fields of a response's `kv_transfer_params.kvquilt`; as headers `x-kvquilt-tokens-exact`, and so on."""

_SAFE = frozenset(string.ascii_letters + string.digits + "._-")


class CacheHeaders:
    """ASGI middleware. Bodies are not changed.

    Args:
        app: what it is in front of.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a call on, and add headers to its response."""
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            send = _Held(send)
        await self._app(scope, receive, send)


class _Held:
    """Holds a JSON response back until its body is there."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start" and _is_json(message):
            self._start = message
            return
        if message["type"] != "http.response.body" or self._start is None:
            await self._send(message)
            return
        self._body += message.get("body", b"")
        if message.get("more_body"):
            return
        start, self._start = self._start, None
        start["headers"] = [*start.get("headers", ()), *_headers(bytes(self._body))]
        await self._send(start)
        await self._send({"type": "http.response.body", "body": bytes(self._body)})


def _is_json(start: Message) -> bool:
    headers = {bytes(name).lower(): bytes(value) for name, value in start.get("headers", ())}
    return headers.get(b"content-type", b"").split(b";")[0] == b"application/json"


def _headers(body: bytes) -> list[tuple[bytes, bytes]]:
    try:
        told = json.loads(body)["kv_transfer_params"][PARAMETER]
        values = {name: str(told[name]) for name in HEADERS if told.get(name) not in (None, "")}
    except (ValueError, KeyError, TypeError, AttributeError):
        return []  # another kind of answer
    return [
        (f"x-kvquilt-{name.replace('_', '-')}".encode(), value.encode())
        for name, value in values.items()
        if _SAFE.issuperset(value)
    ]
