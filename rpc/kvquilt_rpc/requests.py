"""For which request something is done: its id and whose it is, as log lines, spans and calls of nodes carry them."""

import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass, replace

from kvquilt_rpc.callers import ACTING

REQUEST_KEY, MODEL_KEY = "kvquilt-request-id", "kvquilt-model"
"""Metadata keys by which a router tells nodes for which request, and about which model, it calls them."""
MODEL_DIGITS = 16
"""So much of a model's fingerprint names it in lines and spans."""
_ID = re.compile(r"[0-9a-f]{32}")
_MODEL = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True, slots=True)
class Request:
    """What is known of a request; empty: nothing yet.

    Attributes:
        request_id: 32 hexadecimal digits that nobody can guess. `kvquilt why` takes a router's.
        namespace: that it acts in.
        model: the first `MODEL_DIGITS` digits of the model's fingerprint.
    """

    request_id: str = ""
    namespace: str = ""
    model: str = ""


NO_REQUEST = Request()
_CURRENT: ContextVar[Request] = ContextVar("kvquilt_request", default=NO_REQUEST)


def current() -> Request:
    """The request that this is done for."""
    return _CURRENT.get()


def begin() -> None:
    """A request begins: what is done in this context is done for it."""
    _CURRENT.set(Request(secrets.token_hex(16)))


def learn(*, request_id: str = "", namespace: str = "", model: str = "") -> None:
    """Something more is known of the current request; what cannot be an id or a fingerprint is left out."""
    known = _CURRENT.get()
    _CURRENT.set(
        replace(
            known,
            request_id=request_id if _ID.fullmatch(request_id) else known.request_id,
            namespace=namespace or known.namespace,
            model=model[:MODEL_DIGITS] if _MODEL.fullmatch(model) else known.model,
        )
    )


def act_in(namespace: str, model: str) -> None:
    """The current request is about a model, by its fingerprint, in a namespace; its calls act there from now on."""
    ACTING.set(namespace)
    learn(namespace=namespace, model=model)


def resume(request: Request) -> None:
    """What is done in this context from now on is done for a request that may be over."""
    _CURRENT.set(request)


def metadata() -> tuple[tuple[str, str], ...]:
    """What calls carry."""
    known = _CURRENT.get()
    return tuple((key, value) for key, value in ((REQUEST_KEY, known.request_id), (MODEL_KEY, known.model)) if value)
