"""Is it there, is it ours to call, do the versions agree, do the nodes answer, what may be reused."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from grpc_health.v1 import health_pb2, health_pb2_grpc

from kvquilt.calibrating import CALIBRATE_ANEW, UNHEARD, calibrate_command
from kvquilt.checks import Finding, Outcome, SkippedError, judged, one_version
from kvquilt.errors import KvquiltError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from kvquilt.states import ModelInfo, Status
from kvquilt.verifying.subject import Subject
from kvquilt_proto.v1 import router_pb2
from kvquilt_rpc.channel import open_channel
from kvquilt_rpc.status import translated

_SERVICE = router_pb2.DESCRIPTOR.services_by_name["RouterService"].full_name


@asynccontextmanager
async def _health(subject: Subject) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    channel = open_channel(subject.target, subject.credentials)
    try:
        yield health_pb2_grpc.HealthStub(channel)
    finally:
        await channel.close()


async def reachable(subject: Subject) -> Finding:
    """The router takes calls, by the standard health service."""
    expected = f"a router that takes calls at {subject.target}"
    try:
        async with _health(subject) as stub, translated():
            request = health_pb2.HealthCheckRequest(service=_SERVICE)
            answer = await stub.Check(request, timeout=subject.options.deadline)
    except KvquiltError as error:
        if isinstance(error, NotFoundError):
            got, advice = "a server that is no router", "name the router's address; a node has another port"
            return Finding(Outcome.FAILED, expected, got, advice)
        advice = (
            "compare TLS settings of both sides (client.credentials.tls_ca)"
            if error.reason == "tls_handshake"
            else "start it: `kvquilt serve`, or `kvquilt node` and `kvquilt router`; or name its address"
        )
        return Finding(Outcome.FAILED, expected, f"{error.reason}: {error}", advice)
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return judged(serving, expected, "it does" if serving else "it drains", "wait until it has been restarted")


async def allowed(subject: Subject) -> Finding:
    """The caller is let in."""
    expected = "the caller is let in"
    try:
        subject.status = await subject.client.status(deadline=subject.options.deadline)
    except (UnauthenticatedError, PermissionDeniedError) as error:
        advice = "give a token or a certificate that the router knows (client.credentials), docs/security.md"
        return Finding(Outcome.FAILED, expected, f"{error.reason}: {error}", advice)
    model = subject.model
    return Finding(Outcome.PASSED, expected, f"it is, and may use {model.name} ({model.layout.data_type.value})")


async def versions(subject: Subject) -> Finding:
    """Router, nodes and this program are of one version, which means one set of formats."""
    found = {"router": subject.known.version}
    for node in subject.nodes:
        found[f"node {node.target}"] = (await node.status(deadline=subject.options.deadline)).version
    return one_version(found, "" if subject.nodes else " (nodes were not named: --node)")


async def nodes(subject: Subject) -> Finding:
    """The router reaches all of its nodes, and uses them."""
    found = subject.known.nodes
    wrong = []
    for node in found:
        if not node.reachable:
            wrong.append(f"{node.target} does not answer (breaker {node.breaker})")
        elif not node.serving:
            wrong.append(f"{node.target} drains")
    got = "; ".join(wrong) or ", ".join(f"{node.target} ({node.store})" for node in found) or "no node at all"
    advice = "start it, or take it out of router.nodes; if it refuses the router, set router.node_credentials"
    return judged(bool(found) and not wrong, "every node of the router answers", got, advice)


async def gate(subject: Subject) -> Finding:
    """What may be reused out of its context."""
    return gate_of(subject.known, subject.model)


def gate_of(status: Status, model: ModelInfo) -> Finding:
    """What a router may reuse of a model's text out of its context.

    Raises:
        SkippedError: there is no gate.
    """
    missing = model.gate.missing_reason
    if status.ungated:
        return Finding(
            Outcome.FAILED,
            "a gate, or none and exact reuse only",
            "router.ungated: chunks are blended whatever comes of it",
            "for evaluation only: unset router.ungated",
        )
    if missing and model.gate.points:
        raise SkippedError(
            f"it is not used ({missing}): only text in its exact context is reused",
            UNHEARD,
        )
    if missing:
        raise SkippedError(
            f"there is none ({missing}): only text in its exact context is reused",
            f"run `{calibrate_command(model.layout.data_type)}`, and name the file in router.profile",
        )
    points = model.gate.points
    withdrawn = sum(point.withdrawn for point in points)
    return judged(
        withdrawn < len(points),
        "a gate with points that audits have not withdrawn",
        f"{len(points)} points, {withdrawn} withdrawn",
        CALIBRATE_ANEW,
    )
