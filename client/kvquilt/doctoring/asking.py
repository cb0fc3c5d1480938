"""What the router and the nodes say of themselves when they are asked."""

import asyncio

from kvquilt.aio import AsyncClient
from kvquilt.checks import Finding, Outcome, SkippedError, judged, one_version, promise
from kvquilt.doctoring.types import NodeFound, Part, Patient
from kvquilt.errors import KvquiltError
from kvquilt_rpc.node_client import NodeClient
from kvquilt_rpc.nodes.membership import NodeAddress, parse_address, resolve
from kvquilt_rpc.security import Credentials

_TLS = "see the check tls"
_WHO = "give a token or a certificate that it knows (docs/security.md)"


async def router(patient: Patient) -> Finding:
    """The router answers, and lets the caller in."""
    if Part.CLIENT not in patient.parts:
        raise SkippedError("the client's settings are not of this machine", "--part client")
    before = patient.clock()
    try:
        async with AsyncClient(patient.target, patient.credentials) as client:
            patient.status = await client.status(deadline=min(patient.deadline, 2 * patient.patience))
    except KvquiltError as error:
        advice = _TLS if error.reason == "tls_handshake" else _WHO
        if error.reason in ("unavailable", "deadline"):
            advice = "start it: `kvquilt serve` or `kvquilt router`; or see the check addresses"
        return Finding(Outcome.FAILED, promise(router), f"{error.reason}: {error}", advice)
    patient.status_ahead = _ahead(patient.status.unix_seconds, before, patient.clock())
    models = ", ".join(model.name for model in patient.status.models)
    return judged(bool(models), promise(router), f"it serves {models or 'no model'}", "set router.model")


async def nodes(patient: Patient) -> Finding:
    """Every node of router.nodes answers, and lets the router in, which calls it."""
    if Part.ROUTER not in patient.parts:
        raise SkippedError("the router's settings are not of this machine", "--part router")
    try:
        members = await _members(patient)
    except OSError as error:
        got = f"a name among them does not resolve: {error}"
        return Finding(Outcome.FAILED, promise(nodes), got, "see the check addresses")
    patient.nodes = list(await asyncio.gather(*(_asked(text, host, one, patient) for text, host, one in members)))
    if not patient.nodes:
        return Finding(Outcome.FAILED, promise(nodes), "router.nodes is empty", "name the nodes")
    wrong = [f"{node.target}: {node.error}" for node in patient.nodes if node.status is None]
    seen = patient.status.nodes if patient.status is not None else ()
    wrong += [f"{node.target}: the router leaves it alone for now" for node in seen if node.breaker == "open"]
    got = "; ".join(wrong) or ", ".join(f"{n.target} ({n.status.store})" for n in patient.nodes if n.status is not None)
    advice = "start it, or take it out of router.nodes; if it refuses, set router.node_credentials"
    return judged(not wrong, promise(nodes), got, advice)


async def _members(patient: Patient) -> list[tuple[str, str, NodeAddress]]:
    found = []
    for entry in map(parse_address, patient.router.nodes):
        if entry.host:
            named = await asyncio.wait_for(asyncio.to_thread(resolve, entry.host, entry.port), patient.patience)
            found += [(text, entry.host, entry) for text in dict.fromkeys(named)]
        else:
            found.append((entry.text, "", entry))
    return found


async def _asked(target: str, host: str, entry: NodeAddress, patient: Patient) -> NodeFound:
    credentials: Credentials = patient.router.node_credentials
    before = patient.clock()
    try:
        client = NodeClient(target, credentials, host)
        try:
            status = await client.status(deadline=patient.patience)
        finally:
            await client.close()
    except KvquiltError as error:
        return NodeFound(target, entry.weight, None, f"{error.reason}: {error}")
    ahead, doubt = _ahead(status.unix_seconds, before, patient.clock())
    return NodeFound(target, entry.weight, status, "", ahead, doubt)


def _ahead(theirs: float, before: float, after: float) -> tuple[float, float]:
    """Seconds that a clock is ahead, and what that may be off by, from a question and its answer; as NTP does it."""
    return theirs - (before + after) / 2, (after - before) / 2


async def versions(patient: Patient) -> Finding:
    """Router, nodes and this program are of one version."""
    found = {} if patient.status is None else {"router": patient.status.version}
    found |= {f"node {node.target}": node.status.version for node in patient.nodes if node.status is not None}
    if not found:
        raise SkippedError("neither router nor nodes answered")
    return one_version(found)
