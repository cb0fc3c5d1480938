"""Ways to blend by name, as evaluation tries them: what a router serves, and what it is compared with."""

from collections.abc import Callable

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies import POLICIES, policy_by_name
from kvquilt_router.policies.deviation import Deviation
from kvquilt_router.selection import RecomputePolicy

DEVIATION_ONCE = "deviation-once"
"""CacheBlend as its released code does it: chosen once at layer 1, for all layers."""
PARALLEL, PARALLEL_PLAIN = "parallel", "parallel-plain"
TEMPERATURES: dict[str, tuple[float, float]] = {PARALLEL: (0.9, 0.9), PARALLEL_PLAIN: (1.0, 1.0)}
"""Temperature and scale of APE: as in its authors' repository, and without either."""

Policies = Callable[[str], RecomputePolicy]
"""What makes the policy of a name for one blend."""

WAYS = (*POLICIES, DEVIATION_ONCE, *TEMPERATURES)


def evaluated_policy(name: str) -> RecomputePolicy:
    """The policy of that name; `deviation-once` beside those of a router.

    Raises:
        BadRequestError: there is none.
    """
    return Deviation(gradual=False) if name == DEVIATION_ONCE else policy_by_name(name)


def check_way(name: str) -> str:
    """Return the name of a way to blend.

    Raises:
        BadRequestError: there is none of that name.
    """
    if name not in WAYS:
        raise BadRequestError(f"expected a policy in {list(WAYS)}; got {name!r}", reason="unknown_policy")
    return name
