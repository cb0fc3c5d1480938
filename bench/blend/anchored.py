"""Anchors over a sequence of cases: what the pool learns of one serves the next, so all are run in order, at once."""

from collections.abc import Iterator, Sequence

from blend.trials import trial
from kvquilt_router.engine import Engine
from kvquilt_router.evaluation.run import Shared, outcomes
from kvquilt_router.evaluation.types import BASE, Case, Outcome, Trial
from kvquilt_router.policies import AnchorPool, policy_by_name

ANCHORED = trial("anchors", 1.0, BASE)
"""The ratio has no effect: what is not estimated is computed whole, and is counted."""


def anchored(engine: Engine, cases: Sequence[Case], shared: Shared) -> Iterator[tuple[Case, Trial, Outcome]]:
    """A fresh pool, and every case with what it learned of those before it."""
    pool = AnchorPool()
    for case in cases:
        for tried, outcome in outcomes(engine, case, [ANCHORED], shared, lambda name: policy_by_name(name, pool)):
            yield case, tried, outcome
