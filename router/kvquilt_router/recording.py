"""Tells the access log what finished requests of one model needed."""

import time
import uuid

from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.types import KVLayout
from kvquilt_router.access_log import AccessLog
from kvquilt_router.blending import Blended
from kvquilt_router.needed import Sizes, needs
from kvquilt_router.offers import Loaded
from kvquilt_router.planning import Planner


class Recorder:
    """Records requests.

    Args:
        access_log: takes the rows.
        layout: of the model.
    """

    def __init__(self, access_log: AccessLog, layout: KVLayout) -> None:
        self._access_log = access_log
        self._sizes = Sizes(layout)

    def record(self, done: Blended | Loaded, planner: Planner, request_id: str) -> None:
        """Record a request that was served in the planner's namespace.

        Args:
            done: see there.
            planner: of that namespace.
            request_id: what its report calls it; empty if nothing is kept of it: then it gets a name of its own.
        """
        now, request = time.time(), request_id or uuid.uuid4().hex
        self._access_log.add(
            [
                (
                    now,
                    request,
                    PUBLIC if need.public else planner.namespace.name,
                    need.chunk_key,
                    need.tokens,
                    need.stored_bytes,
                    need.compute_seconds,
                    need.found,
                    "" if need.tier is None else need.tier.value,
                )
                for need in needs(done, planner, self._sizes)
            ]
        )
