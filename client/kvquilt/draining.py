"""Takes a cache node out of service without a lost request."""

import asyncio
import time
from collections.abc import Callable

from kvquilt.errors import DeadlineError, UnavailableError
from kvquilt_rpc.node_control import DrainAction, DrainState, NodeControl

_LOOK_SECONDS = 0.2


async def drained(
    node: NodeControl,
    *,
    quiet: float,
    patience: float,
    deadline: float,
    told: Callable[[DrainState], None] = lambda _: None,
) -> tuple[DrainState, bool]:
    """Let a node drain, and wait until it may be stopped.

    Args:
        node: called as an operator.
        quiet: seconds without a call after which routers count as having noticed.
        patience: seconds to wait at most. The node goes on draining then.
        deadline: seconds of one call.
        told: how far it is, again and again.

    Returns:
        How it is at the end, and whether nothing runs and nothing waits there any more.

    Raises:
        KvquiltError: the node refuses, or cannot be reached at first. Later that is waited for.
    """
    end = time.monotonic() + patience
    state = await node.drain(DrainAction.BEGIN, deadline=deadline)
    while True:
        told(state)
        if done := may_stop(state, quiet):
            return state, done
        if time.monotonic() >= end:
            return state, False
        await asyncio.sleep(min(_LOOK_SECONDS, max(0.0, end - time.monotonic())))
        try:
            # Not only a look: a node that was started again meanwhile serves, and is to drain too.
            state = await node.drain(DrainAction.BEGIN, deadline=deadline)
        except (UnavailableError, DeadlineError):
            if time.monotonic() >= end:
                raise


def may_stop(state: DrainState, quiet: float) -> bool:
    """Whether a node has nothing to do any more."""
    return state.draining and not state.running_calls and not state.queue_entries and state.quiet_seconds >= quiet
