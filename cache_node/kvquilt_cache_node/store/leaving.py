"""Keys whose rows are gone and whose bytes are not yet: nothing may be written in their room before."""

import asyncio
from collections.abc import Iterable, Sequence

Departure = asyncio.Future[Exception | None]
"""Done when the bytes are gone; its result is why they could not be deleted, if they could not."""


class Leaving:
    """What is under way out of a store. For one event loop."""

    def __init__(self) -> None:
        self._keys: dict[Departure, bytes] = {}

    def add(self, keys: Iterable[bytes]) -> list[tuple[bytes, Departure]]:
        """Bytes that somebody is about to delete."""
        loop = asyncio.get_running_loop()
        added = [(key, loop.create_future()) for key in keys]
        self._keys |= {departure: key for key, departure in added}
        return added

    def gone(self, departure: Departure, error: Exception | None = None) -> None:
        """They are deleted, or they cannot be. Counts once."""
        self._keys.pop(departure, None)
        if not departure.done():
            departure.set_result(error)

    def of(self, key: bytes) -> list[Departure]:
        """The departures of a key."""
        return [departure for departure, leaving in self._keys.items() if leaving == key]

    def all(self) -> list[Departure]:
        """All of them."""
        return list(self._keys)


async def settled(departures: Sequence[Departure]) -> None:
    """Wait until all are gone; raise why one could not be deleted."""
    for departure in departures:
        if (error := await asyncio.shield(departure)) is not None:
            raise error


async def failures(departures: Sequence[Departure]) -> list[Exception]:
    """Wait until all are gone or cannot be; why not."""
    found = [await asyncio.shield(departure) for departure in departures]
    return [error for error in found if error is not None]
