"""A call while it is served: the request that it belongs to, its span, and a line of the log when it ends."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from kvquilt_codec.errors import KvquiltError
from kvquilt_rpc import requests, spans
from kvquilt_rpc.callers import Identity

log = logging.getLogger(__name__)

_CONTINUED = "/kvquilt.v1.CacheNodeService/"
"""Of these a router says for which request they are. A router's callers choose no ids: it keeps records by them."""


@contextmanager
def serving(method: str, context: Any, identity: Identity) -> Iterator[None]:
    """A call of a caller that may call is served inside, in a task of its own: what is learnt of it holds in all of it.

    Args:
        method: its path.
        context: gRPC's.
        identity: who calls, and in which namespace.
    """
    metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
    requests.begin()
    requests.learn(namespace=identity.namespace)
    if method.startswith(_CONTINUED):
        said = metadata.get(requests.REQUEST_KEY, ""), metadata.get(requests.MODEL_KEY, "")
        requests.learn(request_id=said[0], model=said[1])
    span, began = spans.serving(method, metadata), time.perf_counter()
    reason = ""
    try:
        yield
    except grpc.aio.AbortError:
        reason = getattr(context.code(), "name", "UNKNOWN")
        raise
    except KvquiltError as error:
        reason = error.reason
        raise
    except BaseException as error:
        # Cancelled, by a deadline or by the caller; else the services' own guard has let something through.
        reason = "UNKNOWN" if isinstance(error, Exception) else "CANCELLED"
        raise
    finally:
        known = requests.current()
        about = {"namespace": known.namespace, "model": known.model}
        span.set(**{name: value for name, value in about.items() if value})
        log.debug("%s: %s after %.3f s", method, reason or "OK", time.perf_counter() - began)
        span.end(reason)
