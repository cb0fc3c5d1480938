"""Whether chunks are spread over the nodes as their weights say."""

import math
import socket

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.types import NodeFound, Patient
from kvquilt_rpc.nodes.membership import resolve
from kvquilt_rpc.tls import is_unix

_SIGMAS = 4.0
_SHARE = 0.2
"""Beyond chance, and by a fifth of what a node should have: less moves nothing."""
_OWN = ("file", "memory")


async def ring(patient: Patient) -> Finding:
    """Each node is listed once, and holds its share of the chunks."""
    nodes = patient.answering
    expected = promise(ring)
    if twice := _twice(nodes):
        advice = "list each node once in router.nodes: it would get two nodes' chunks"
        return Finding(Outcome.FAILED, expected, f"{' and '.join(twice)} are one node", advice)
    kinds = {node.status.store for node in nodes if node.status is not None}
    if patient.router.shared_store:
        alone = sorted(kinds & set(_OWN)) if len(nodes) > 1 else []
        if alone or len(kinds) > 1:
            advice = "unset router.shared_store: chunks are looked for on nodes that do not have them"
            got = f"router.shared_store is set; nodes keep objects in {', '.join(sorted(kinds))}"
            return Finding(Outcome.FAILED, expected, got, advice)
        return Finding(Outcome.PASSED, expected, f"{len(nodes)} nodes share a store: each has everything")
    if len(nodes) < 2:
        raise SkippedError("there is one node: it has everything")
    return _shares(nodes, expected)


def _twice(nodes: list[NodeFound]) -> list[str]:
    """Addresses under which one node is listed more than once."""
    known: dict[str, str] = {}
    for node in nodes:
        for address in _numeric(node.target):
            if known.setdefault(address, node.target) != node.target:
                return [known[address], node.target]
    return []


def _numeric(target: str) -> list[str]:
    if is_unix(target):
        return [target]
    host, _, port = target.rpartition(":")
    try:
        return resolve(host.strip("[]"), int(port))
    except (OSError, socket.gaierror):
        return [target]


def _shares(nodes: list[NodeFound], expected: str) -> Finding:
    objects = [node.status.objects if node.status is not None else 0 for node in nodes]
    total, weights = sum(objects), sum(node.weight for node in nodes)
    told, uneven = [], False
    for node, held in zip(nodes, objects, strict=True):
        share = node.weight / weights
        mean, deviation = total * share, math.sqrt(total * share * (1 - share))
        off = abs(held - mean)
        uneven = uneven or (off > _SIGMAS * deviation and off > _SHARE * mean)
        told.append(f"{node.target} {held} of {mean:.0f}")
    got = f"objects, and the share of each: {', '.join(told)}"
    if not uneven:
        return Finding(Outcome.PASSED, expected, got)
    advice = (
        "a node that came lately fills up by itself; else compare router.nodes of all routers (weights too), and "
        "node.capacity of all nodes"
    )
    return Finding(Outcome.WARNED, expected, got, advice)
