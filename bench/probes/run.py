"""Probes from an empty folder to their outcome."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from drills.place import Place
from probes.asking import Probed, at_node, at_router
from probes.tenants import OWNER, PREFIX, PROBER, Tenants, documents, texts
from probes.timing import KINDS, MARGIN, Times, measured

OBJECTS = 400
TEXTS = 40
NODE_SHARE = 0.45
"""Of all probes, at each of the two nodes; the others are the router's."""
FAMILY = 2 * 2 * 2 * len(KINDS)
"""Tests of a run: two of each kind of look-up, by both tenants, at two nodes."""


@dataclass(frozen=True)
class Outcome:
    """What came of all probes, by kind, and how long look-ups took."""

    probed: Sequence[Probed]
    times: Sequence[Times]

    @property
    def problems(self) -> list[str]:
        """All that must not be, in words."""
        found = [f"{one.kind}: {one.hits} of {one.probes} probes hit" for one in self.probed if one.hits]
        found += [
            f"{one.kind}: expected the owner to find its own; it found {one.control} of {one.controls}"
            for one in self.probed
            if one.control < one.controls
        ]
        for one in self.times:
            if one.who == PROBER and (one.different or not one.difference.within(MARGIN)):
                found.append(f"{one.what}: times of stored keys differ from those of absent ones, or might")
            if one.who == OWNER and not one.different:
                found.append(f"{one.what}: the test did not tell the owner's own keys apart: it shows nothing")
        return found


async def run(folder: Path, *, probes: int, calls: int, seed: int, objects: int = OBJECTS) -> Outcome:
    """All of it in a folder that is empty; nothing that it started is running afterwards.

    Args:
        folder: for servers and nodes.
        probes: how many in all.
        calls: how many timed look-ups of each kind at each node, for stored and for absent keys; 0 for none.
        seed: of the order of timed calls.
        objects: that the owner has at each node.
    """
    probed: list[Probed] = []
    times: list[Times] = []
    with ExitStack() as stack:
        tenants = Tenants(Place(folder, stack))
        try:
            for index, owner in tenants.owner.items():
                owned = await tenants.store(index, objects)
                prober = tenants.prober[index]
                for kind in KINDS if calls else ():
                    for who, node in ((PROBER, prober), (OWNER, owner)):
                        times.append(await measured(index, kind, who, node, owned, calls, seed, FAMILY))
                probed += await at_node(index, owner, prober, owned, round(NODE_SHARE * probes))
            probed.append(await _routed(tenants, probes - sum(one.probes for one in probed)))
        finally:
            await tenants.close()
    return Outcome(probed, times)


async def _routed(tenants: Tenants, probes: int) -> Probed:
    clients = tenants.router()
    try:
        contents = texts(TEXTS)
        stored = clients[OWNER].prefetch(documents(contents), shared_prefix=PREFIX, level="lossless")
        if any([done.failed async for done in stored]):
            raise RuntimeError("expected the owner's documents to be stored; some were not")
        return await at_router(clients, contents, probes)
    finally:
        for client in clients.values():
            await client.close()
