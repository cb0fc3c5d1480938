"""What a gate that rests on given outcomes would decide."""

from collections.abc import Mapping, Sequence

from kvquilt_codec.gate import Gate
from kvquilt_router.evaluation.judge import ANSWER_TOKENS
from kvquilt_router.evaluation.types import Outcome, Trial
from kvquilt_router.gate.choose import choose
from kvquilt_router.gate.measure import CONFIDENCE, MIN_CASES, SHARE, point_of
from kvquilt_router.gate.types import Decision
from kvquilt_router.policies import POLICIES

_NOT_CHOSEN = "full"
"""Always within a limit, and never cheaper than a full prefill."""


def would_say(
    measured: Mapping[Trial, Sequence[Outcome]], model_fingerprint: str, level: str, max_kl: float
) -> dict[str, Decision]:
    """By the context of the chunks, how a router would blend.

    Args:
        measured: by trial, of all cases; those of fewer than `MIN_CASES` cases, and ways that no router serves, do not
            count.
        model_fingerprint: hex digest of the model.
        level: of the codec; empty for none.
        max_kl: limit, in nats.
    """
    points = tuple(
        point_of(trial, found)
        for trial, found in measured.items()
        if trial.policy in POLICIES and trial.policy != _NOT_CHOSEN and len(found) >= MIN_CASES
    )
    gate = Gate(model_fingerprint, "0" * 64, ANSWER_TOKENS, SHARE, CONFIDENCE, "", points)
    contexts = dict.fromkeys(point.context for point in points if point.level == level and point.context != "exact")
    return {context: choose(gate, level, {context}, max_kl) for context in contexts}
