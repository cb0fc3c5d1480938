"""A gate as a file: JSON, strictly checked. Addressed by the SHA-256 of its bytes."""

import math
from pathlib import Path

import msgspec

from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError
from kvquilt_codec.gate import json_file
from kvquilt_codec.gate.types import Gate

MAX_BYTES = 4 << 20
digest = json_file.digest


def beside(profile: Path) -> Path:
    """Where the gate that was measured with a profile's file is kept."""
    return profile.with_name(profile.name.removesuffix(".safetensors") + ".gate.json")


def dump(gate: Gate) -> bytes:
    """The file of a gate; equal gates give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(gate, order="sorted")) + b"\n"


def is_one(data: bytes) -> bool:
    """Whether this is a gate rather than another file of a store: JSON, where a profile has its header's length."""
    return data[:1] == b"{" and b"\0" not in data[:8]


def identity(gate: Gate) -> str:
    """What a measurement is known by, however its file is written: the address of the file that `dump` gives."""
    return digest(dump(gate))


def load(data: bytes, expected_digest: str | None = None) -> Gate:
    """Read a gate file.

    Raises:
        IntegrityError: other bytes than the digest's, or no gate, or one that says what cannot be.
    """
    gate = json_file.read(
        data, Gate, "a gate file", MAX_BYTES, expected_digest, ": measure it again with `kvquilt calibrate`"
    )
    for point in gate.points:
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
