"""From what was measured to how a prompt is blended. Pure computation; fails closed."""

from collections.abc import Collection, Iterable

from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_router.gate.types import Decision

EXACT = "exact"
_ROUNDING = 1e-9
_LOSSLESS = "lossless"


def choose(
    gate: Gate | None,
    level: str,
    contexts: Collection[str],
    limit: float,
    *,
    policy: str | None = None,
    recompute_ratio: float | None = None,
    withdrawn: Collection[tuple[str, float, str, str]] = (),
) -> Decision:
    """The cheapest measured way to blend that stays within a limit.

    Args:
        gate: what was measured; `None`: nothing.
        level: of the codec that chunks are read at. `lossless` is not measured apart: what was measured at the finest
            coded level holds for it too.
        contexts: of the chunks that are at hand, exact ones included.
        limit: most predicted KL, in nats.
        policy: this one only, if given.
        recompute_ratio: this one only, if given: the measured ratio next below it counts.
        withdrawn: keys of points that are not trusted any more.

    A chunk of each context in `contexts` may be in the prompt, so the worst of their predictions counts. Where none is
    within the limit, chunks whose context changed must not be used: `refusal` says why.
    """
    changed = sorted(set(contexts) - {EXACT})
    if level == _LOSSLESS:
        level = _finest(gate)
    closed = ("none" if policy is None else policy, 0.0 if recompute_ratio is None else recompute_ratio)
    coded = _coded(gate, level)
    if not changed:
        return Decision(*closed, None if coded is None else coded.kl_upper, () if coded is None else (coded,))
    if gate is None:
        return Decision(*closed, None, refusal="no_gate")
    ways = [
        way
        for way in _ways(gate, level, changed)
        if (policy is None or way[0].policy == policy)
        and (recompute_ratio is None or way[0].recompute_ratio <= recompute_ratio + _ROUNDING)
    ]
    trusted = [way for way in ways if not any(point.key in withdrawn for point in way)]
    within = [way for way in trusted if way[0].kl_upper <= limit]
    if not within:
        refusal = "not_measured" if not ways else "withdrawn" if not trusted else "above_limit"
        return Decision(*closed, None if coded is None else coded.kl_upper, refusal=refusal)
    if recompute_ratio is not None:
        best = max(within, key=lambda way: (way[0].recompute_ratio, -_cost(way)))
        return Decision(best[0].policy, recompute_ratio, best[0].kl_upper, best)
    best = min(within, key=lambda way: (_cost(way), way[0].kl_upper))
    return Decision(best[0].policy, best[0].recompute_ratio, best[0].kl_upper, best)


def least(
    gate: Gate | None,
    level: str,
    context: str,
    *,
    policy: str | None = None,
    recompute_ratio: float | None = None,
    withdrawn: Collection[tuple[str, float, str, str]] = (),
) -> float | None:
    """The least divergence that is predicted of a context, whatever it costs; `None`: it was not measured.

    Arguments as in `choose`; with a ratio, this one and those below it count.
    """
    if gate is None:
        return None
    bounds = [
        point.kl_upper
        for point in gate.points
        if point.context == context
        and point.level == (_finest(gate) if level == _LOSSLESS else level)
        and point.key not in withdrawn
        and (policy is None or point.policy == policy)
        and (recompute_ratio is None or point.recompute_ratio <= recompute_ratio + _ROUNDING)
    ]
    return min(bounds, default=None)


def raised(
    gate: Gate | None,
    level: str,
    contexts: Collection[str],
    limit: float,
    decision: Decision,
    withdrawn: Collection[tuple[str, float, str, str]] = (),
) -> list[Decision]:
    """A decision's policy at the higher ratios at which it was measured to stay within the limit; see `choose`."""
    changed = sorted(set(contexts) - {EXACT})
    if gate is None or not changed or decision.refusal:
        return []
    return [
        Decision(decision.policy, way[0].recompute_ratio, way[0].kl_upper, way)
        for way in _ways(gate, _finest(gate) if level == _LOSSLESS else level, changed)
        if way[0].policy == decision.policy
        and way[0].recompute_ratio > decision.recompute_ratio
        and way[0].kl_upper <= limit
        and not any(point.key in withdrawn for point in way)
    ]


def order(gate: Gate | None, level: str, default: tuple[str, ...]) -> tuple[str, ...]:
    """Contexts from the best to the worst: by measured divergence without recompute, those that were not measured last.

    Where the ones that were measured cannot be compared they keep the order of `default`.
    """
    level = _finest(gate) if level == _LOSSLESS else level
    points = [point for point in (gate.points if gate is not None else ()) if point.level == level]
    kl = {point.context: point.kl_geomean for point in points if point.recompute_ratio == 0}
    seen = {point.context for point in points}
    measured = [context for context in default if context in seen and context != EXACT]
    if all(context in kl for context in measured):
        measured.sort(key=lambda context: kl[context])
    return (EXACT, *measured, *(context for context in default if context not in (EXACT, *measured)))


def _finest(gate: Gate | None) -> str:
    """The level whose exact chunks diverge least."""
    exact = [point for point in (gate.points if gate is not None else ()) if point.context == EXACT]
    return min(exact, key=lambda point: point.kl_geomean).level if exact else _LOSSLESS


def _coded(gate: Gate | None, level: str) -> GatePoint | None:
    points = gate.points if gate is not None else ()
    return next((point for point in points if point.context == EXACT and point.level == level), None)


def _ways(gate: Gate, level: str, contexts: Iterable[str]) -> list[tuple[GatePoint, ...]]:
    """Per policy and ratio the points of all contexts, the worst first; only where all of them were measured."""
    found: dict[tuple[str, float], dict[str, GatePoint]] = {}
    for point in gate.points:
        if point.level == level and point.context != EXACT:
            found.setdefault((point.policy, point.recompute_ratio), {})[point.context] = point
    wanted = set(contexts)
    return [
        tuple(sorted((points[context] for context in wanted), key=lambda point: -point.kl_upper))
        for points in found.values()
        if wanted <= points.keys()
    ]


def _cost(way: tuple[GatePoint, ...]) -> float:
    return max(point.cpu_share for point in way)
