"""Work that nobody waits for: what has expired goes, and what could not be deleted is tried again."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from kvquilt_codec.errors import KvquiltError

log = logging.getLogger(__name__)

_LONGEST_WAIT = 60.0

Sweep = Callable[[], Awaitable[bool]]
"""Does some of the work; whether there may be more. Raises `KvquiltError` if some cannot be done now."""


@asynccontextmanager
async def swept(sweep: Sweep, seconds: float) -> AsyncIterator[None]:
    """Within this context, sweep: at once, then every so many seconds, and less often while it fails.

    Args:
        sweep: see there.
        seconds: between two sweeps. After a failure the wait doubles, up to a minute, and a part of it is drawn.
    """
    task = asyncio.create_task(_keep_sweeping(sweep, seconds))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _keep_sweeping(sweep: Sweep, seconds: float) -> None:
    wait = seconds
    while True:
        try:
            while await sweep():
                pass
            wait = seconds
        except KvquiltError as error:
            wait = min(2 * wait, max(seconds, _LONGEST_WAIT))
            log.warning("what is to be deleted stays for now: %s", error)
        except Exception:
            # Nobody waits for this task: its end would not be seen, and nothing would expire any more.
            log.exception("a sweep failed")
        await asyncio.sleep(wait * random.uniform(0.75, 1.0))  # noqa: S311  no secret
