"""What is known of a gate's audits, from messages and to messages."""

from kvquilt_cache_node.audits import MergedAudits
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError
from kvquilt_codec.forms import check_hex_digest
from kvquilt_codec.gate import audits_file as file
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_proto.v1 import cache_node_pb2 as pb


def given(request: pb.MergeAuditsRequest) -> GateAudits:
    """What a caller knows; nothing, if it only asks.

    Raises:
        BadRequestError: digests of another shape, or audits that are none, or of another gate.
    """
    check_hex_digest(request.gate_digest, "gate digest")
    check_hex_digest(request.model_fingerprint, "model fingerprint")
    check_hex_digest(request.profile_digest, "profile digest")
    if not request.audits:
        return GateAudits(request.gate_digest, request.model_fingerprint, request.profile_digest)
    try:
        audits = file.load(request.audits, request.audits_digest)
        file.check(audits, request.gate_digest, request.model_fingerprint, request.profile_digest)
    except (IntegrityError, FingerprintMismatchError) as error:
        raise BadRequestError(str(error)) from None
    return audits


def response(merged: MergedAudits) -> pb.MergeAuditsResponse:
    """What is known now."""
    answer = pb.MergeAuditsResponse(unstored_reason=merged.unstored_reason, damaged=merged.damaged)
    if merged.state.points:
        answer.audits = file.dump(merged.state)
        answer.audits_digest = file.digest(answer.audits)
    return answer
