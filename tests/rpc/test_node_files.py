"""A node that sends something else than the gate, the audits or the profile that was asked for."""

import msgspec
import pytest

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, KvquiltError
from kvquilt_codec.gate import audits_file, file
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1.common_pb2 import Frame
from tests.codec.gates import PROFILE_DIGEST, make_files
from tests.codec.samples import FINGERPRINT, OTHER_FINGERPRINT
from tests.rpc.test_peers import AUDITS, CALLS, LONG, client_of, failure, odd_node

(GATE,) = make_files(1)
(OF_ANOTHER_MODEL,) = make_files(1, OTHER_FINGERPRINT)
(OF_ANOTHER_PROFILE,) = make_files(1, FINGERPRINT, "0e" * 32)


def sent(data: bytes, digest: str = "", size: int = -1) -> list[bytes]:
    header = pb.GetGateHeader(gate_digest=digest or file.digest(data), payload_bytes=len(data) if size < 0 else size)
    parts = pb.GetGateResponse(header=header), pb.GetGateResponse(frame=Frame(data=data))
    return [part.SerializeToString() for part in parts]


async def test_what_is_sent_as_it_should_be_is_taken() -> None:
    async with odd_node(sent(GATE)) as target, client_of(target) as client:
        assert await client.gates.get(PROFILE_DIGEST, FINGERPRINT, deadline=LONG) == GATE


@pytest.mark.parametrize(
    ("answers", "kind", "message"),
    [
        ([], IntegrityError, "stream was empty"),
        (sent(GATE)[1:], IntegrityError, "header first"),
        (sent(GATE)[:1], IntegrityError, "ended after 0"),
        (sent(GATE, size=len(GATE) - 1), IntegrityError, "got more"),
        (sent(GATE, size=file.MAX_BYTES + 1), IntegrityError, "at most"),
        (sent(GATE, digest="0e" * 32), IntegrityError, "of this digest"),
        (sent(b"{}"), IntegrityError, "a gate file"),
        (sent(OF_ANOTHER_MODEL), FingerprintMismatchError, "of model"),
        (sent(OF_ANOTHER_PROFILE), FingerprintMismatchError, "stale"),
    ],
)
async def test_what_is_not_the_gate_that_was_asked_for(
    answers: list[bytes], kind: type[KvquiltError], message: str
) -> None:
    async with odd_node(answers) as target:
        error = await failure(CALLS["get_gate"], target, LONG)
    assert type(error) is kind, "no fault of a node is one of the request"
    assert message in str(error)


def told(known: GateAudits, digest: str = "") -> list[bytes]:
    data = audits_file.dump(known)
    digest = digest or audits_file.digest(data)
    return [pb.MergeAuditsResponse(audits=data, audits_digest=digest).SerializeToString()]


@pytest.mark.parametrize(
    ("answers", "kind", "message"),
    [
        (told(msgspec.structs.replace(AUDITS, gate="0e" * 32)), FingerprintMismatchError, "of gate"),
        (told(msgspec.structs.replace(AUDITS, model_fingerprint="0e" * 32)), FingerprintMismatchError, "of gate"),
        (told(AUDITS, "0e" * 32), IntegrityError, "of this digest"),
        ([pb.MergeAuditsResponse(audits=b"{}").SerializeToString()], IntegrityError, "of this digest"),
    ],
)
async def test_what_are_not_the_audits_that_were_asked_for(
    answers: list[bytes], kind: type[KvquiltError], message: str
) -> None:
    async with odd_node(answers) as target:
        error = await failure(CALLS["merge_audits"], target, LONG)
    assert type(error) is kind
    assert message in str(error)


async def test_a_profile_of_another_digest() -> None:
    parts = (
        pb.GetProfileResponse(header=pb.GetProfileHeader(payload_bytes=3)),
        pb.GetProfileResponse(frame=Frame(data=b"abc")),
    )
    async with odd_node([part.SerializeToString() for part in parts]) as target, client_of(target) as client:
        with pytest.raises(IntegrityError, match="of this digest"):
            await client.profiles.get("0e" * 32, deadline=LONG)
