"""Lifting a withdrawal: an operator has looked into it, and wants the point to be used again, by all routers."""

import logging

from kvquilt_codec.errors import KvquiltError, NotFoundError
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router.answers import point_message
from kvquilt_router.gate.held import HeldGate
from kvquilt_router.gate.sharing import AuditSharing
from kvquilt_rpc.callers import Identity

log = logging.getLogger(__name__)


async def lifted(
    gate: HeldGate, sharing: AuditSharing, request: pb.LiftWithdrawalRequest, identity: Identity
) -> pb.LiftWithdrawalResponse:
    """Lift the withdrawal of a point, and tell the nodes; a router that cannot reach them goes on trying.

    Raises:
        PermissionDeniedError: the caller may not.
        NotFoundError: there is no gate, or it has no such point.
        BadRequestError: the point is not withdrawn.
    """
    identity.check_operator()
    if gate.gate is None or gate.audits is None:
        raise NotFoundError(f"expected a gate with a withdrawn point; there is none: {gate.missing_reason}")
    key = (request.policy, request.recompute_ratio, request.context, request.level)
    gate.audits.lift(key)
    gate.urgent.set()  # if the exchange here fails, another one follows
    log.warning("%r lifted the withdrawal of: policy %s, ratio %g, context %s, level %s", identity.name, *key)
    answer = pb.LiftWithdrawalResponse()
    try:
        heard = await sharing.exchange()
    except KvquiltError as error:
        answer.unstored_reason = str(error)
    else:
        answer.nodes_stored, answer.nodes = heard.nodes - len(heard.unstored), heard.nodes
        answer.unstored_reason = "; ".join(heard.unstored)
    point = next(point for point in gate.gate.points if point.key == key)
    answer.point.CopyFrom(point_message(point, gate.audits))
    return answer
