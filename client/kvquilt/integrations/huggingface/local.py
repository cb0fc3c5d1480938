"""A router and a cache node inside this process, around the model object that the process has loaded already.

They are the servers that `kvquilt serve` runs, on two Unix sockets in a folder that only this user can enter.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kvquilt.loop_thread import LoopThread
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.errors import BadRequestError, UnavailableError, UnsupportedModelError
from kvquilt_router.engine import LoadedModel
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings

_LOCKED = "store_locked"
_MAX_SOCKET_PATH = 100
"""Bytes that the path of a Unix socket may have; systems take 103 or 107."""
_QUIET = {"background": False, "audit_share": 0.0}
"""Whoever loaded the model computes with it between two fills; the router must not do so meanwhile, unasked."""


def check(model: Any) -> None:
    """Refuse a model object that a router cannot compute with as it is.

    Raises:
        BadRequestError: it is in training mode.
        UnsupportedModelError: its attention takes no mask of its own for each token.
    """
    if model.training:
        raise BadRequestError("expected a model in evaluation mode; this one is in training mode: call model.eval()")
    attention = model.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise UnsupportedModelError(
            f"expected attention sdpa or eager; got {attention!r}: load the model with attn_implementation='sdpa'"
        )


def settings(path: Path | None, capacity: str | int, others: dict[str, Any]) -> tuple[NodeSettings, RouterSettings]:
    """What the two servers run with, their addresses apart.

    Args:
        path: folder of the store; `None`: that of `kvquilt serve`.
        capacity: byte cap of the store, as `node.capacity`.
        others: settings of the router by name.

    Raises:
        BadRequestError: one that there is not, or of no such value.
    """
    place = {} if path is None else {"path": path}
    try:
        node = NodeSettings(capacity=capacity, **place)
        router = RouterSettings(**{**_QUIET, **others})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise BadRequestError(f"expected settings of a node or router; got {name!r}: {first['msg']}") from None
    return node, router


class LocalServers:
    """A router and a cache node, running until `close`.

    Args:
        model: what the router computes with.
        node: settings; the address is chosen here.
        router: likewise.

    Attributes:
        address: of the router.

    Raises:
        UnavailableError: another process has the store open (reason `store_locked`), or it cannot be written.
    """

    def __init__(self, model: LoadedModel, node: NodeSettings, router: RouterSettings) -> None:
        self._folder = _private_folder()
        self._model = model
        self._stack = contextlib.AsyncExitStack()
        self._thread = LoopThread("kvquilt-local")
        try:
            self.address = self._thread.run(self._open(node, router))
        except UnavailableError as error:
            self.close()
            raise _explained(error, node.path) from None
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End both servers and close the store. Does nothing the second time."""
        if self._thread.closed:
            return
        try:
            self._thread.run(self._stack.aclose())
        finally:
            self._thread.close()
            self._folder.cleanup()

    async def _open(self, node: NodeSettings, router: RouterSettings) -> str:
        node_host, router_host = (f"unix:{self._folder.name}/{name}" for name in ("node", "router"))
        enter = self._stack.enter_async_context
        address = await enter(running_node(node.model_copy(update={"host": node_host})))
        chosen = router.model_copy(update={"host": router_host, "nodes": (address,)})
        return await enter(running_router(chosen, self._model))


def _explained(error: UnavailableError, path: Path) -> UnavailableError:
    """What to do about a store that is in use, where it is."""
    if error.reason != _LOCKED:
        return error
    return UnavailableError(
        f"expected the store in {path} for this cache alone; another process, or another cache in this one, holds it: "
        "close that, choose another path, or share one `kvquilt serve` by its address",
        reason=_LOCKED,
    )


def _private_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder for this user only, whose name leaves room for sockets."""
    for parent in (None, "/tmp"):  # noqa: S108  the folder itself is new, and nobody else's
        folder = tempfile.TemporaryDirectory(prefix="kvquilt-", dir=parent)
        if len(folder.name.encode()) <= _MAX_SOCKET_PATH - len("/router"):
            return folder
        folder.cleanup()
    raise BadRequestError(f"expected a folder for temporary files with a short path; got {tempfile.gettempdir()}")
