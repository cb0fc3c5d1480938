"""Channels of a client: with TLS, and with its token beside every call."""

from collections.abc import Callable, Sequence
from typing import Any

import grpc

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import check_namespace
from kvquilt_rpc import requests, spans
from kvquilt_rpc.authentication import AUTHORIZATION
from kvquilt_rpc.callers import ACTING, NAMESPACE_KEY
from kvquilt_rpc.logs import hide
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.tls import channel_credentials, is_loopback
from kvquilt_rpc.tokens import MAX_TOKEN_BYTES
from kvquilt_rpc.watched import Watched

Metadata = tuple[tuple[str, str], ...]


def credentialed_channel(
    target: str, credentials: Credentials, options: Sequence[tuple[str, str | int]]
) -> grpc.aio.Channel:
    """A channel to a target as somebody. Connects on first use.

    Raises:
        NotFoundError, BadRequestError: a file is missing or no such thing; a token that would go in clear text over a
            network; more than one token.
    """
    tls = credentials.tls or credentials.tls_ca is not None
    if not tls and (credentials.tls_cert is not None or credentials.tls_key is not None):
        raise BadRequestError("expected tls or tls_ca with tls_cert and tls_key; got neither")
    metadata = _acting(credentials.namespace, _metadata(credentials))
    if tls:
        secured = channel_credentials(credentials.tls_ca, credentials.tls_cert, credentials.tls_key)
        channel = grpc.aio.secure_channel(target, secured, options=options)
    else:
        has_token = credentials.token is not None or credentials.token_file is not None
        if has_token and not is_loopback(_host(target)) and not credentials.allow_cleartext:
            raise BadRequestError(
                f"expected TLS to send a token to {target}: in clear text whoever listens could use it; set tls, or "
                "allow_cleartext=true if something in between encrypts"
            )
        channel = grpc.aio.insecure_channel(target, options=options)
    return _Telling(channel, metadata)


def _host(target: str) -> str:
    return target.removeprefix("dns:").removeprefix("///").rpartition(":")[0]


def _acting(default: str, others: Callable[[], Metadata]) -> Callable[[], Metadata]:
    """The namespace that a call acts in, the credentials' if they name one, and other metadata."""
    if default:
        check_namespace(default)

    def metadata() -> Metadata:
        namespace = default or ACTING.get()
        return (*others(), (NAMESPACE_KEY, namespace)) if namespace else others()

    return metadata


def _metadata(credentials: Credentials) -> Callable[[], Metadata]:
    if credentials.token is not None and credentials.token_file is not None:
        raise BadRequestError("expected a token or a token_file; got both")
    if credentials.token_file is not None:
        path = credentials.token_file
        watched = Watched([path], lambda contents: _bearer(contents[0], str(path)))
        return lambda: ((AUTHORIZATION, watched.get()),)
    if credentials.token is None:
        return lambda: ()
    token = _bearer(credentials.token.get_secret_value().encode(), "the token")
    return lambda: ((AUTHORIZATION, token),)


def _bearer(content: bytes, where: str) -> str:
    token = content.strip()
    if not 1 <= len(token) <= MAX_TOKEN_BYTES or any(not 0x21 <= byte <= 0x7E for byte in token):
        raise BadRequestError(
            f"expected a token of 1..{MAX_TOKEN_BYTES} ASCII characters in {where}; got something else"
        )
    hide(token.decode("ascii"))
    return f"Bearer {token.decode('ascii')}"


class _Telling(grpc.aio.Channel):
    """A channel whose calls all carry some metadata, and are spans where somebody traces.

    gRPC has call credentials and interceptors for it: the former refuse clear text, which loopback may have, the latter
    wrap every message of a stream.
    """

    def __init__(self, channel: grpc.aio.Channel, metadata: Callable[[], Metadata]) -> None:
        self._channel = channel
        self._metadata = metadata

    def _telling(self, method: str, call: Any) -> Any:
        def told(request: Any = None, **options: Any) -> Any:
            calling = spans.calling(method)
            traced = () if calling is None else calling.metadata
            options["metadata"] = (*(options.get("metadata") or ()), *self._metadata(), *requests.metadata(), *traced)
            made = call(request, **options)
            if calling is not None:
                calling.made(made)
            return made

        return told

    def unary_unary(self, method: str, *args: Any, **options: Any) -> Any:
        """See `grpc.aio.Channel`; likewise the next three."""
        return self._telling(method, self._channel.unary_unary(method, *args, **options))

    def unary_stream(self, method: str, *args: Any, **options: Any) -> Any:
        """One request, several answers."""
        return self._telling(method, self._channel.unary_stream(method, *args, **options))

    def stream_unary(self, method: str, *args: Any, **options: Any) -> Any:
        """Several requests, one answer."""
        return self._telling(method, self._channel.stream_unary(method, *args, **options))

    def stream_stream(self, method: str, *args: Any, **options: Any) -> Any:
        """Several of both."""
        return self._telling(method, self._channel.stream_stream(method, *args, **options))

    async def __aenter__(self) -> "_Telling":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Close the channel."""
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """State of the connection."""
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Wait for another state."""
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """Wait for a connection."""
        await self._channel.channel_ready()
