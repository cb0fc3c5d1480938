"""Recompute policies: which tokens of reused chunks are computed again. One small class each, selected by name."""

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies.deviation import Deviation
from kvquilt_router.policies.first_tokens import FirstTokens
from kvquilt_router.policies.full import Full
from kvquilt_router.policies.none import NoRecompute
from kvquilt_router.policies.question import Question
from kvquilt_router.policies.question_deviation import QuestionDeviation
from kvquilt_router.policies.random import RandomTokens
from kvquilt_router.types import RecomputePolicy

__all__ = ["POLICIES", "policy_by_name"]

POLICIES: dict[str, RecomputePolicy] = {
    policy.name: policy
    for policy in (
        NoRecompute(),
        RandomTokens(),
        FirstTokens(),
        Deviation(),
        Question(),
        QuestionDeviation(),
        Full(),
    )
}


def policy_by_name(name: str) -> RecomputePolicy:
    """The policy of that name.

    Raises:
        BadRequestError: there is none.
    """
    policy = POLICIES.get(name)
    if policy is None:
        raise BadRequestError(f"expected a policy in {list(POLICIES)}; got {name!r}", reason="unknown_policy")
    return policy
