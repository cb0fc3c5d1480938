"""The vocabulary of what is measured for a gate. Read this file first."""

from typing import Annotated

import msgspec

CONTEXTS = ("exact", "pair", "warm", "base")
"""What a stored chunk's context is to the prompt that it is used in, the nearest first.

`exact`: the same tokens precede it. `pair`: what precedes it directly is the same. `warm`: some other text.
`base`: the shared prefix alone.
"""

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Kl = Annotated[float, msgspec.Meta(ge=0)]
Hex32 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
Name = Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]{1,64}$")]


class GatePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One measured operating point.

    Attributes:
        policy: recompute policy by name.
        recompute_ratio: share of the reused tokens that it recomputes.
        context: what the reused chunks' context was; one of `CONTEXTS`. With `exact` nothing is recomputed, and what is
            measured is the codec alone.
        level: of the codec.
        cases: how many.
        kl_geomean: geometric mean of KL(full || blended) over the cases, each the mean over the answer's tokens, nats.
        kl_upper: what a further case stays below: see `Gate.share` and `Gate.confidence`.
        top1_agreement: mean share of answer tokens that both rank first.
        cpu_share: median CPU time relative to a full prefill.
    """

    policy: Name
    recompute_ratio: Share
    context: str
    level: Name
    cases: Annotated[int, msgspec.Meta(ge=4, le=1 << 20)]
    kl_geomean: Kl
    kl_upper: Kl
    top1_agreement: Share
    cpu_share: Kl

    @property
    def key(self) -> tuple[str, float, str, str]:
        """What identifies it within a gate."""
        return self.policy, self.recompute_ratio, self.context, self.level


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was measured of one model with one codec profile.

    Attributes:
        model_fingerprint: hex digest of the model.
        profile_digest: hex digest of the codec profile that the measured KV went through.
        answer_tokens: how many tokens each divergence is the mean of.
        share: of further cases of the same kinds that stay below a point's `kl_upper`.
        confidence: with which they do.
        texts: what it was measured on, in words.
        points: in no particular order, no two with the same key.
    """

    model_fingerprint: Hex32
    profile_digest: Hex32
    answer_tokens: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    share: Share
    confidence: Share
    texts: Annotated[str, msgspec.Meta(max_length=4096)]
    points: Annotated[tuple[GatePoint, ...], msgspec.Meta(max_length=4096)]
