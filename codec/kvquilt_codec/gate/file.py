"""A gate as a file: JSON, strictly checked. Addressed by the SHA-256 of its bytes."""

import hashlib
import math
from pathlib import Path

import msgspec

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError
from kvquilt_codec.gate.types import CONTEXTS, Gate

MAX_BYTES = 4 << 20


def beside(profile: Path) -> Path:
    """Where the gate that was measured with a profile's file is kept."""
    return profile.with_name(profile.name.removesuffix(".safetensors") + ".gate.json")


def dump(gate: Gate) -> bytes:
    """The file of a gate; equal gates give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(gate, order="sorted")) + b"\n"


def is_one(data: bytes) -> bool:
    """Whether this is a gate rather than another file of a store: JSON, where a profile has its header's length."""
    return data[:1] == b"{" and b"\0" not in data[:8]


def digest(data: bytes) -> str:
    """Address of a gate: SHA-256 of its file, as hex."""
    return hashlib.sha256(data).hexdigest()


def identity(gate: Gate) -> str:
    """What a measurement is known by, however its file is written: the address of the file that `dump` gives."""
    return digest(dump(gate))


def load(data: bytes, expected_digest: str | None = None) -> Gate:
    """Read a gate file.

    Raises:
        IntegrityError: other bytes than the digest's, or no gate, or one that says what cannot be.
    """
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"expected a gate file of at most {MAX_BYTES} bytes; got {len(data)}")
    if expected_digest is not None and digest(data) != expected_digest:
        raise IntegrityError("expected a gate of this digest; got other bytes", reason="checksum")
    try:
        gate = msgspec.json.decode(data, type=Gate)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise IntegrityError(f"expected a gate file; got {error}: measure it again with `kvquilt calibrate`") from None
    if len({point.key for point in gate.points}) != len(gate.points):
        raise IntegrityError("expected one entry per operating point; the gate file has some twice")
    for point in gate.points:
        if point.context not in CONTEXTS:
            raise IntegrityError(f"expected a context in {list(CONTEXTS)}; the gate file has {point.context[:40]!r}")
        if not (math.isfinite(point.kl_upper) and point.kl_geomean <= point.kl_upper):
            raise IntegrityError("expected an upper bound that is finite and above the mean; the gate file has others")
    return gate


def check(gate: Gate, model_fingerprint: str, profile_digest: str) -> None:
    """Refuse what was measured of another model, or through another codec profile.

    Raises:
        FingerprintMismatchError: says which.
    """
    if gate.model_fingerprint != model_fingerprint:
        raise FingerprintMismatchError(
            f"expected a gate of model {model_fingerprint[:16]}...; it is of {gate.model_fingerprint[:16]}...: "
            "measure this model with `kvquilt calibrate`"
        )
    if gate.profile_digest != profile_digest:
        raise FingerprintMismatchError(
            f"expected a gate measured with codec profile {profile_digest[:16] or 'none'}...; it was measured with "
            f"{gate.profile_digest[:16]}...: it is stale, measure again with `kvquilt calibrate --gate-only`"
        )
