"""What a worker would be given of a prompt's KV, and what it was given."""

from dataclasses import dataclass

from kvquilt_router.blending import BlendPlan
from kvquilt_router.estimates import Way
from kvquilt_router.gate.choose import EXACT
from kvquilt_router.heads import Head
from kvquilt_router.types import BlendReport, Extent, Prompt, Sent


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """What a worker would be given.

    Attributes:
        extent: never `AUTO`.
        first: KV is given of the tokens from this one on, ...
        end: ... up to this one.
        way: what is estimated of it.
        computing: what is estimated if the worker computes all that it lacks.
        reason: why nothing is given; empty if something is.
        head: the exact head, if it was looked for.
        plan: the blend's, if it was made.
    """

    extent: Extent
    first: int
    end: int
    way: Way
    computing: Way
    reason: str = ""
    head: Head | None = None
    plan: BlendPlan | None = None

    @property
    def exact_tokens(self) -> int:
        """How far the stored exact head goes."""
        return 0 if self.head is None else self.head.reached

    @property
    def stored_tokens(self) -> int:
        """How far it goes in chunks that are cut as this prompt's are: only what is beyond need be stored."""
        return 0 if self.head is None else self.head.stored

    @property
    def blended_tokens(self) -> int:
        """Tokens whose stored KV of another context would be used; of guessed chunks all that may be."""
        if self.plan is None or self.extent is not Extent.PROMPT:
            return 0
        found = (o for o in self.plan.report.chunks if o.found is not None and o.found.context != EXACT)
        guessed = {id(guess.outcome): guess.outcome for guess in self.plan.guesses}
        return sum(len(outcome.ref.token_ids) for outcome in (*found, *guessed.values()))


@dataclass(frozen=True, slots=True)
class Begun:
    """What is sent now: KV of the tokens from `first` up to `end`."""

    extent: Extent
    first: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class Loaded:
    """A finished load of an exact head, or of nothing.

    Attributes:
        prompt: what was asked.
        report: what was done.
        sent: of which tokens KV was sent.
    """

    prompt: Prompt
    report: BlendReport
    sent: Sent
