"""All checks, in an order in which each can use what those before it found. Nothing is changed by any."""

from collections.abc import Awaitable, Callable, Mapping

from kvquilt.checks import Check, Finding, Outcome, SkippedError, made, promise
from kvquilt.doctoring import (
    addresses,
    asking,
    clocks,
    files,
    formats,
    models,
    ring,
    rooms,
    stores,
    timing,
    tls,
    tokens,
)
from kvquilt.doctoring.types import Diagnosis, Patient

CHECKS: Mapping[str, Callable[[Patient], Awaitable[Finding]]] = {
    "files": files.files,
    "secrets": files.secrets,
    "time-outs": timing.timeouts,
    "volumes": rooms.volumes,
    "memory": rooms.memory,
    "addresses": addresses.addresses,
    "certificates": tls.certificates,
    "tokens": tokens.tokens,
    "tls": tls.tls,
    "redis-rights": stores.redis_rights,
    "redis-settings": stores.redis_settings,
    "object-storage": stores.object_storage,
    "formats": formats.formats,
    "router": asking.router,
    "nodes": asking.nodes,
    "versions": asking.versions,
    "clocks": clocks.clocks,
    "ring": ring.ring,
    "profile": models.profile,
    "gate": models.gate,
}
CONFIGURATION = "configuration"
"""Made before all others, by whoever reads the settings: without them there is nothing to look at."""
_OF_WHAT_RUNS = ("router", "nodes", "versions", "ring", "profile", "gate")


async def diagnosed(
    patient: Patient, begun: Callable[[str], None] = lambda _: None, done: Callable[[Check], None] = lambda _: None
) -> Diagnosis:
    """Make all checks.

    Args:
        patient: what is looked at.
        begun: told the name of each check before it is made.
        done: told each check.
    """
    checks = []
    for name, check in CHECKS.items():
        begun(name)

        async def possible(name: str = name, check: Callable[[Patient], Awaitable[Finding]] = check) -> Finding:
            if name in _OF_WHAT_RUNS and not patient.running:
                raise SkippedError("nothing is said to run yet", "call it without --before-start then")
            return await check(patient)

        checks.append(await made(name, possible, promise(check)))
        done(checks[-1])
    return Diagnosis(tuple(checks), all(check.outcome is not Outcome.FAILED for check in checks))
