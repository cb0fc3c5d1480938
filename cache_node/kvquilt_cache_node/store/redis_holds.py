"""Which keys this node alone may write or delete the bytes of, among the nodes that share an index in Redis."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Iterable, Sequence

from kvquilt_cache_node.store.redis_scripts import Scripts
from kvquilt_codec.errors import KvquiltError

log = logging.getLogger(__name__)

_MAX_LEASES = 10


class Holds:
    """Leases on keys, prolonged while this process lives. One that runs out is void: others take the key over.

    A lease that is taken to write lasts until it is given back. One that is taken to delete lasts ten leases at most:
    if the deletion failed, another node is to try it.
    """

    def __init__(self, scripts: Scripts, lease: float) -> None:
        self.owner = uuid.uuid4().hex
        self.lease = lease
        self._scripts = scripts
        self._until: dict[bytes, float] = {}
        self._renewal: asyncio.Task[None] | None = None
        self._closed = False

    def took(self, *, writing: Iterable[bytes] = (), deleting: Iterable[bytes] = ()) -> None:
        """Prolong these from now on."""
        self._until.update(dict.fromkeys(deleting, time.monotonic() + _MAX_LEASES * self.lease))
        self._until.update(dict.fromkeys(writing, float("inf")))
        if self._until and self._renewal is None:
            self._renewal = asyncio.create_task(self._renew())

    def gave_back(self, keys: Iterable[bytes]) -> None:
        """Prolong these no more."""
        for key in keys:
            self._until.pop(key, None)

    async def close(self) -> None:
        """Prolong nothing any more."""
        self._closed = True
        self._until.clear()
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal

    async def _renew(self) -> None:
        while not self._closed:  # a cancellation in the middle of a call may come out of it as a lost connection
            await asyncio.sleep(self.lease / 3)
            now = time.monotonic()
            self._until = {key: until for key, until in self._until.items() if until > now}
            try:
                for batch in batches(list(self._until)):
                    await self._scripts.run("renew", self.owner, self.lease, *batch)
            except KvquiltError as error:
                log.warning("holds on objects that are being written could not be prolonged: %s", error)


BATCH = 128
"""Keys that one script looks at: about a millisecond of the server."""


def batches(items: Sequence[bytes]) -> Iterable[Sequence[bytes]]:
    """The items, `BATCH` at a time."""
    return (items[begin : begin + BATCH] for begin in range(0, len(items), BATCH))
