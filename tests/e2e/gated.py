"""Gates made by hand, and what is stored and asked for under them."""

import numpy as np

from kvquilt import Document
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.profile import file as profile_file

_RNG = np.random.default_rng(0)
PREFIX, FIRST, SECOND, WARM = (_RNG.integers(3, 500, n).tolist() for n in (9, 80, 70, 60))
QUESTION = [7, 8, 9, 10]
SEGMENTS = [SECOND, FIRST, QUESTION]


def point(policy, ratio, context, upper, cost, level="high"):
    return GatePoint(policy, ratio, context, level, 8, upper / 10, upper, 0.9, cost)


def gate_of(model, profile, *points):
    digest = profile_file.digest(profile.read_bytes())
    exact = point("none", 0.0, "exact", 0.04, 0.01)
    return Gate(model.fingerprint, digest, 16, 0.95, 0.9, "made by hand", (exact, *points))


def prefetch(client, **options):
    named = [Document(f"document {number}", content) for number, content in enumerate((FIRST, SECOND))]
    assert not any(item.failed for item in client.prefetch(named, shared_prefix=PREFIX, warm_up=[WARM], **options))


def blend(client, segments=SEGMENTS, **options):
    return client.blend(segments, shared_prefix=PREFIX, **options)


def counters(client):
    return client.status().counters
