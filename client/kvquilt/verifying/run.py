"""All checks, in an order in which each can use what those before it found; and cleaning up after them."""

from collections.abc import Awaitable, Callable, Mapping

from kvquilt.checks import Check, Finding, Outcome, SkippedError, judged, made, promise
from kvquilt.verifying import nodes, reaching, storing, tenants, timing
from kvquilt.verifying.subject import Subject
from kvquilt.verifying.types import Recommendation, Verification
from kvquilt_codec.types import TokenIds

CHECKS: Mapping[str, Callable[[Subject], Awaitable[Finding]]] = {
    "reachable": reaching.reachable,
    "allowed": reaching.allowed,
    "versions": reaching.versions,
    "nodes": reaching.nodes,
    "gate": reaching.gate,
    "stores": storing.stores,
    "hits": storing.hits,
    "equal": storing.equal,
    "on-nodes": nodes.on_nodes,
    "restart": storing.restart,
    "isolation-text": tenants.isolation_by_text,
    "isolation-key": nodes.isolation_by_key,
    "isolation-document": tenants.isolation_by_document,
    "caps": nodes.caps,
    "cap-refusal": nodes.cap_refusal,
    "forgetting": tenants.forgetting,
    "computing": timing.computing,
    "engine": timing.engine,
    "exact-faster": timing.exact_faster,
    "blended-faster": timing.blended_faster,
}
CLEANED = "cleaned"
"""Made after all others, also when they were interrupted."""
_WITHOUT_STATUS = ("reachable", "allowed", CLEANED)


async def verify(
    subject: Subject, begun: Callable[[str], None] = lambda _: None, done: Callable[[Check], None] = lambda _: None
) -> Verification:
    """Make all checks of a router; what they store is forgotten in any case.

    Args:
        subject: the router, and how to verify it.
        begun: told the name of each check before it is made.
        done: told each check.
    """
    checks: list[Check] = []

    async def make(name: str, check: Callable[[Subject], Awaitable[Finding]]) -> None:
        begun(name)

        async def possible() -> Finding:
            if name not in _WITHOUT_STATUS:
                subject.known  # noqa: B018  skips it if there is nobody to ask
            return await check(subject)

        checks.append(await made(name, possible, promise(check)))
        done(checks[-1])

    try:
        for name, check in CHECKS.items():
            await make(name, check)
    finally:
        await make(CLEANED, cleaned)
    version = subject.status.version if subject.status is not None else ""
    ok = all(check.outcome is not Outcome.FAILED for check in checks)
    follows = timing.recommendation(subject.timing) if _usable(checks) else Recommendation.UNKNOWN
    return Verification(subject.target, version, tuple(checks), subject.timing, follows, ok)


async def cleaned(subject: Subject) -> Finding:
    """Everything that this run stored is forgotten, and is not found any more."""
    if not subject.documents:
        raise SkippedError("nothing was stored")
    left = await subject.clean()
    found = [name for name, text in subject.documents.items() if await _is_found(subject, text)]
    expected = f"all {len(subject.documents)} documents of this run are forgotten"
    got = "; ".join(left.values()) or (f"still found: {', '.join(found)}" if found else "they are")
    advice = f"what is left is gone {subject.options.ttl:g} s after it was stored: its TTL"
    return judged(not left and not found, expected, got, advice)


async def _is_found(subject: Subject, text: TokenIds) -> bool:
    return any([not all(await subject.misses(text, level=level)) for level in (None, storing.LEVEL)])


def _usable(checks: list[Check]) -> bool:
    """Whether what was stored came back right: else no time matters."""
    return all(check.outcome is not Outcome.FAILED for check in checks if check.name in ("stores", "hits", "equal"))
