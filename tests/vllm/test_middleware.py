"""Headers that say what the cache did."""

import asyncio
import json
from typing import Any

import pytest

from kvquilt.integrations.vllm.middleware import CacheHeaders


def sent(content_type: bytes, *pieces: bytes) -> tuple[dict[bytes, bytes], bytes]:
    """What leaves the middleware in front of an application that answers so: headers, and the body."""
    messages: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", content_type), (b"content-length", b"%d" % sum(map(len, pieces)))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for number, piece in enumerate(pieces):
            await send({"type": "http.response.body", "body": piece, "more_body": number + 1 < len(pieces)})

    async def send(message: Any) -> None:
        messages.append(message)

    async def call() -> None:
        await CacheHeaders(app)({"type": "http", "path": "/v1/completions"}, None, send)  # type: ignore[arg-type]

    asyncio.run(call())
    assert messages[0]["type"] == "http.response.start"
    return dict(messages[0]["headers"]), b"".join(message["body"] for message in messages[1:])


def test_json_answers_say_what_was_loaded_and_keep_their_bytes() -> None:
    told = {"tokens_exact": 512, "tokens_blended": 0, "reason": "", "request_id": "a1b2"}
    body = json.dumps({"usage": {}, "kv_transfer_params": {"kvquilt": told}}).encode()
    headers, got = sent(b"application/json", body[:20], body[20:])
    assert got == body
    assert headers[b"x-kvquilt-tokens-exact"] == b"512"
    assert headers[b"x-kvquilt-tokens-blended"] == b"0"
    assert headers[b"x-kvquilt-request-id"] == b"a1b2"
    assert b"x-kvquilt-reason" not in headers
    assert headers[b"content-length"] == b"%d" % len(body)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (b"text/event-stream", b'data: {"kv_transfer_params": {"kvquilt": {"tokens_exact": 1}}}\n\n'),
        (b"application/json", b"not json"),
        (b"application/json", b'{"kv_transfer_params": null}'),
        (b"application/json", b"[]"),
        (b"application/json", b'{"kv_transfer_params": {"kvquilt": {"reason": "a\\r\\nset-cookie: b"}}}'),
        (b"application/json", b""),
    ],
    ids=str,
)
def test_other_answers_pass_as_they_are(content_type: bytes, body: bytes) -> None:
    headers, got = sent(content_type, body)
    assert got == body
    assert not [name for name in headers if name.startswith(b"x-kvquilt")]
