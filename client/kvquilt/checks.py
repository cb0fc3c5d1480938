"""The vocabulary of commands that check something: checks, and what they found. Read this file first."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from kvquilt.errors import KvquiltError
from kvquilt_rpc.version import VERSION


class Outcome(StrEnum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    WARNED = "warned"
    """It works, and there is something to know or to mend before it does not."""
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found.

    Attributes:
        outcome: how it ended.
        expected: what would be right; empty if it was skipped.
        got: what there is; of a skipped check why it was.
        advice: what to do: so that it passes, or so that it can be made at all.
    """

    outcome: Outcome
    expected: str
    got: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A check that was made, by name. Other fields as in `Finding`."""

    name: str
    outcome: Outcome
    expected: str
    got: str
    advice: str


class SkippedError(Exception):
    """A check cannot be made here.

    Args:
        reason: why.
        advice: what would make it possible.
    """

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


def judged(holds: bool, expected: str, got: str, advice: str = "", otherwise: Outcome = Outcome.FAILED) -> Finding:
    """A finding that passes if something holds; the advice is for when it does not."""
    if holds:
        return Finding(Outcome.PASSED, expected, got)
    return Finding(otherwise, expected, got, advice)


async def made(name: str, check: Callable[[], Awaitable[Finding]], expected: str) -> Check:
    """Make a check; an error of our tree fails it.

    Args:
        name: of the check.
        check: makes it.
        expected: what would be right, should it end in an error.
    """
    try:
        found = await check()
    except SkippedError as skipped:
        found = Finding(Outcome.SKIPPED, "", skipped.reason, skipped.advice)
    except KvquiltError as error:
        advice = "docs/reference.md, Status codes and reasons"
        found = Finding(Outcome.FAILED, expected, f"{error.reason}: {error}", advice)
    return Check(name, found.outcome, found.expected, found.got, found.advice)


def promise(check: Callable[..., object]) -> str:
    """What a check expects, in its own words: the first line of its documentation."""
    return (check.__doc__ or "").split("\n")[0].rstrip(".")


def one_version(found: Mapping[str, str], more: str = "") -> Finding:
    """Whether parts are of this program's version, which means one set of formats.

    Args:
        found: versions, by who has them.
        more: what else is to be said of them.
    """
    wrong = [f"{who} {version}" for who, version in found.items() if version != VERSION]
    got = ", ".join(wrong) or ", ".join(found)
    return judged(not wrong, f"version {VERSION} everywhere", got + more, "install one version on all machines")
