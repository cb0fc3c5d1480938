"""Recompute policies: which tokens of reused chunks are computed again. One small class each, selected by name."""

from collections.abc import Callable

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies.anchor_pool import AnchorPool
from kvquilt_router.policies.anchor_pools import AnchorPools
from kvquilt_router.policies.anchors import Anchors
from kvquilt_router.policies.contextual import Contextual
from kvquilt_router.policies.deviation import Deviation
from kvquilt_router.policies.dual_stage import DualStage
from kvquilt_router.policies.first_tokens import FirstTokens
from kvquilt_router.policies.full import Full
from kvquilt_router.policies.none import NoRecompute
from kvquilt_router.policies.question import Question
from kvquilt_router.policies.question_deviation import QuestionDeviation
from kvquilt_router.policies.random import RandomTokens
from kvquilt_router.selection import RecomputePolicy

__all__ = ["EVALUATION_ONLY", "POLICIES", "AnchorPool", "AnchorPools", "policy_by_name"]

POLICIES: dict[str, Callable[[], RecomputePolicy]] = {
    policy.name: policy
    for policy in (
        NoRecompute,
        RandomTokens,
        FirstTokens,
        Deviation,
        Contextual,
        Question,
        QuestionDeviation,
        DualStage,
        Anchors,
        Full,
    )
}
"""What makes each policy."""

EVALUATION_ONLY = ("parallel",)
"""Methods that are no choice of tokens, and that a router therefore cannot serve."""


def policy_by_name(name: str, anchors: AnchorPool | None = None) -> RecomputePolicy:
    """The policy of that name, for one blend.

    Args:
        name: one of `POLICIES`.
        anchors: what `anchors` learned so far, of the model and namespace of the blend.

    Raises:
        BadRequestError: there is none, or none that a router can serve.
    """
    if name in EVALUATION_ONLY:
        raise BadRequestError(
            f"expected a policy in {list(POLICIES)}; got {name!r}, which chooses no tokens: workers would have to "
            "attend to the chunks in parallel. It is available in `kvquilt eval` and the benchmark only",
            reason="unknown_policy",
        )
    make = POLICIES.get(name)
    if make is None:
        raise BadRequestError(f"expected a policy in {list(POLICIES)}; got {name!r}", reason="unknown_policy")
    return Anchors(anchors) if make is Anchors else make()
