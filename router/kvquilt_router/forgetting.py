"""Forgetting a namespace: what was begun before is not stored after.

Requests, and the work that they leave behind, belong to the moment at which they began. When a namespace is forgotten,
what began before may store nothing in it any more, and what is just being stored is waited for.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from kvquilt_codec.errors import UnavailableError

_BEGUN: ContextVar[int] = ContextVar("kvquilt_begun")


class Forgetting:
    """The forgotten namespaces of one router. For one event loop."""

    def __init__(self) -> None:
        self._now = 0
        self._forgotten: dict[str, int] = {}
        self._storing: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def begin(self) -> int:
        """A request begins: what is done in this context belongs to this moment, which is returned."""
        _BEGUN.set(self._now)
        return self._now

    def resume(self, moment: int) -> None:
        """What is done in this context from now on belongs to an earlier moment."""
        _BEGUN.set(moment)

    def is_over(self, namespace: str, moment: int) -> bool:
        """Whether a namespace was forgotten after a moment."""
        return moment <= self._forgotten.get(namespace, -1)

    @contextmanager
    def storing(self, namespace: str) -> Iterator[None]:
        """Something is stored in a namespace.

        Raises:
            UnavailableError: the namespace was forgotten since this began.
        """
        if self.is_over(namespace, _BEGUN.get(self._now)):
            raise UnavailableError(
                f"expected namespace {namespace!r} to be there; it was forgotten meanwhile: ask again to store",
                reason="namespace_forgotten",
            )
        done = asyncio.get_running_loop().create_future()
        self._storing[namespace].add(done)
        try:
            yield
        finally:
            done.set_result(None)
            self._storing[namespace].discard(done)
            if not self._storing[namespace]:
                del self._storing[namespace]

    async def forget(self, namespace: str) -> None:
        """Let nothing that began before be stored any more, and wait for what is just being stored."""
        self._forgotten[namespace] = self._now
        self._now += 1
        if running := self._storing.get(namespace):
            await asyncio.wait(set(running))
