"""Whether what is called is there: names resolve, and somebody takes connections."""

import asyncio
import socket
from collections.abc import Coroutine
from typing import Any

from kvquilt.checks import Finding, SkippedError, judged, promise
from kvquilt.doctoring.places import Place, places
from kvquilt.doctoring.types import Patient


async def addresses(patient: Patient) -> Finding:
    """Addresses that are called have names that resolve, and take connections."""
    found = places(patient)
    wrong = [problem for place in found if (problem := await _unreachable(place, patient))]
    if not found:
        raise SkippedError("nothing is called from here")
    got = "; ".join(wrong) or ", ".join(place.name for place in found)
    if not patient.running:
        got += " (router and nodes: names only)"
    advice = "start it, or mend its address, the name server or what filters connections between"
    return judged(not wrong, promise(addresses), got, advice)


async def _unreachable(place: Place, patient: Patient) -> str:
    looked = patient.running or not place.ours
    try:
        async with asyncio.timeout(patient.patience):
            if not place.port:
                if looked:
                    await _closed(asyncio.open_unix_connection(place.host))
                return ""
            loop = asyncio.get_running_loop()
            await loop.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
            if looked:
                await _closed(asyncio.open_connection(place.host, place.port))
    except TimeoutError:
        return f"{place.name}: no answer in {patient.patience:g} s"
    except socket.gaierror as error:
        return f"{place.name}: the name does not resolve ({error.strerror})"
    except OSError as error:
        return f"{place.name}: {error.strerror or error}"
    return ""


async def _closed(opening: Coroutine[Any, Any, tuple[asyncio.StreamReader, asyncio.StreamWriter]]) -> None:
    _, writer = await opening
    writer.close()
    await writer.wait_closed()
