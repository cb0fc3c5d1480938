"""The bearer tokens by which this machine calls others, and how long they hold."""

from collections.abc import Iterator

from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.types import Part, Patient
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.token_ends import SOON_SHARE, stated_end, token_of

_ADVICE = "make another (`kvquilt token create`, or whoever issues them); a token_file is read again without a restart"


async def tokens(patient: Patient) -> Finding:
    """The tokens of this machine's callers hold, and have a tenth of their lifetime left."""
    now, expected = patient.clock(), promise(tokens)
    wrong: list[str] = []
    soon: list[str] = []
    good: list[str] = []
    for setting, credentials in _credentials(patient):
        token = token_of(credentials)
        if not token:
            continue
        end = stated_end(token)
        if end is None:
            good.append(f"{setting}: it does not say when it expires")
        elif end.expires <= now:
            wrong.append(f"{setting}: expired {_span(now - end.expires)} ago")
        else:
            told = f"{setting}: {_span(end.expires - now)} of {_span(end.lifetime)} left"
            (soon if end.share_left(now) < SOON_SHARE else good).append(told)
    if not wrong and not soon and not good:
        raise SkippedError("no token is set")
    if wrong:
        return Finding(Outcome.FAILED, expected, "; ".join([*wrong, *soon]), _ADVICE)
    outcome = Outcome.WARNED if soon else Outcome.PASSED
    return Finding(outcome, expected, "; ".join([*soon, *good]), _ADVICE if soon else "")


def _credentials(patient: Patient) -> Iterator[tuple[str, Credentials]]:
    if Part.ROUTER in patient.parts:
        yield "router.node_credentials", patient.router.node_credentials
    if Part.CLIENT in patient.parts:
        yield "client.credentials", patient.credentials


def _span(seconds: float) -> str:
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
