"""Gates with made-up figures, for tests of how they are kept and used; not of what they say."""

from kvquilt_codec.gate import CONTEXTS, Gate, GatePoint, file
from tests.codec.samples import FINGERPRINT

PROFILE_DIGEST = "cd" * 32


def make_gate(
    model: str = FINGERPRINT, profile: str = PROFILE_DIGEST, *, upper: float = 0.1, texts: str = "texts"
) -> Gate:
    """A gate by which chunks of any context may be used as they are, where `upper` is allowed."""
    points = [
        GatePoint("none", 0.0, context, level, 8, upper / 10, upper, 0.9, 0.1)
        for context in CONTEXTS
        for level in ("high", "medium", "low")
    ]
    return Gate(model, profile, 16, 0.95, 0.9, texts, tuple(points))


def make_files(count: int, model: str = FINGERPRINT, profile: str = PROFILE_DIGEST) -> list[bytes]:
    """Files of different gates of one model and profile."""
    return [file.dump(make_gate(model, profile, texts=f"texts {number}")) for number in range(count)]
