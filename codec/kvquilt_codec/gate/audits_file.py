"""Audits of a gate as a file: JSON, strictly checked. Addressed by the SHA-256 of its bytes."""

import msgspec

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError
from kvquilt_codec.gate import json_file
from kvquilt_codec.gate.audits import MAX_REPLICAS, GateAudits

MAX_BYTES = 2 << 20
"""More than any state takes that `GateAudits.with_points` gives."""
_BEGIN = b'{"kind":"audits"'
digest = json_file.digest


def dump(audits: GateAudits) -> bytes:
    """The file of a state; equal states give equal bytes."""
    return msgspec.json.encode(audits, order="deterministic") + b"\n"


def is_one(data: bytes) -> bool:
    """Whether these are audits rather than another file of a store."""
    return data.startswith(_BEGIN)


def load(data: bytes, expected_digest: str | None = None) -> GateAudits:
    """Read a file of audits.

    Raises:
        IntegrityError: other bytes than the digest's, or no audits, or some that say what cannot be.
    """
    audits = json_file.read(data, GateAudits, "a file of audits", MAX_BYTES, expected_digest)
    if not is_one(data):
        raise IntegrityError("expected a file of audits; got another one")
    for point in audits.points:
        if any(tally.exceeded > tally.audits for tally in (point.folded, *point.replicas.values())):
            raise IntegrityError("expected no more audits beyond a bound than audits; the file has more")
        if any(replica <= point.folded_until for replica in point.replicas):
            raise IntegrityError(f"expected up to {MAX_REPLICAS} replicas after those that are folded; got others")
    return audits


def check(audits: GateAudits, gate: str, model_fingerprint: str, profile_digest: str) -> None:
    """Refuse what is of another gate.

    Raises:
        FingerprintMismatchError: it is.
    """
    if (audits.gate, audits.model_fingerprint, audits.profile_digest) != (gate, model_fingerprint, profile_digest):
        raise FingerprintMismatchError(
            f"expected audits of gate {gate[:16]}... of model {model_fingerprint[:16]}... with codec profile "
            f"{profile_digest[:16]}...; got those of gate {audits.gate[:16]}..."
        )
