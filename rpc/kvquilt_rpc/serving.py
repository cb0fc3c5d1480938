"""A call while it is served: the request that it belongs to, its span, and a line of the log when it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from kvquilt_rpc import requests, spans
from kvquilt_rpc.callers import Identity

log = logging.getLogger(__name__)

_CONTINUED = "/kvquilt.v1.CacheNodeService/"
"""Of these a router says for which request they are. A router's callers choose no ids: it keeps records by them."""


class Serving:
    """One call. What its metadata say of requests and traces counts once it is known who calls."""

    def __init__(self, method: str, context: Any) -> None:
        self._method = method
        self._context = context
        self._began = time.perf_counter()
        self._span: spans.Span = spans.NOTHING
        requests.begin()

    def admitted(self, identity: Identity) -> None:
        """The caller may call."""
        given = self._context.invocation_metadata() or ()
        metadata = {key: value for key, value in given if isinstance(value, str)}
        requests.learn(namespace=identity.namespace)
        if self._method.startswith(_CONTINUED):
            said = metadata.get(requests.REQUEST_KEY, ""), metadata.get(requests.MODEL_KEY, "")
            requests.learn(request_id=said[0], model=said[1])
        self._span = spans.serving(self._method, metadata)

    def ended(self, reason: str = "") -> None:
        """It is over."""
        known = requests.current()
        for name, value in (("namespace", known.namespace), ("model", known.model)):
            if value:
                self._span.set(**{name: value})
        seconds = time.perf_counter() - self._began
        log.debug("%s: %s after %.3f s", self._method, reason or "OK", seconds)
        self._span.end(reason)


@contextmanager
def serving(method: str, context: Any) -> Iterator[Serving]:
    """A call is served inside, in a task of its own: what is learnt of it holds until that ends."""
    call = Serving(method, context)
    try:
        yield call
    except grpc.aio.AbortError:
        code = context.code()
        call.ended(getattr(code, "name", "UNKNOWN"))
        raise
    except BaseException as error:
        # Cancelled, by a deadline or by the caller; else the services' own guard has let something through.
        call.ended("UNKNOWN" if isinstance(error, Exception) else "CANCELLED")
        raise
    call.ended()
