"""Work with a node, off any request's path, that is tried again until it is done."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from kvquilt_codec.errors import KvquiltError

log = logging.getLogger(__name__)

_FIRST_DELAY, _LAST_DELAY = 0.25, 30.0


async def until_done(work: Callable[[], Awaitable[None]], what: str, give_up: tuple[type[KvquiltError], ...]) -> None:
    """Do `work` again and again until it succeeds, or fails in a way that trying again does not mend.

    Args:
        work: what may raise errors of our tree.
        what: it is about, for the log.
        give_up: errors that end it.
    """
    delay = _FIRST_DELAY
    said = ""
    while True:
        try:
            return await work()
        except give_up as error:
            return log.error("%s cannot be used or kept: %s", what, error)
        except KvquiltError as error:
            # Once: what is missing may stay so for days.
            log.log(logging.DEBUG if str(error) == said else logging.WARNING, "%s is tried again: %s", what, error)
            said = str(error)
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LAST_DELAY)
