"""A document that was stored whole, then changed in one sentence; a question whose answer depends on the change.

The KV before the edit is kept (its context is the same), the keys after it are rotated by the shift. The changed tokens
are computed, and with them, if asked for, a window of tokens that follow them, and what a policy chooses of the rest.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from blend.facts import NUMBERS, OWNERS, filler
from blend.passages import PassageSet
from kvquilt_codec.cutting import cut
from kvquilt_codec.types import TokenIds, VariantKind
from kvquilt_router.assembly import PlacedChunk
from kvquilt_router.dependence import dependence
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.evaluation.judge import Reference, judge
from kvquilt_router.evaluation.run import Shared
from kvquilt_router.evaluation.types import EXACT, Case, Outcome, Trial
from kvquilt_router.finding import REPAIRED
from kvquilt_router.matching import Diagonal, Run, runs
from kvquilt_router.policies import policy_by_name
from kvquilt_router.selection import BlendProbe, RecomputePolicy, ReusedChunk, Selection, SelectionProblem
from kvquilt_router.types import Prompt

CHUNK_TOKENS = 256
RECORDS = 3
KINDS = ("number", "owner", "far")
"""What is edited: a number; the owner of a file whose number follows in the next sentence, or after another one."""


class Rest:
    """Everything after the edit: what prefix caching leaves to do."""

    name = "prefix caching"

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """All candidates."""
        del probe
        return Selection(problem.candidates)


REUSE = "reuse without repair"
EDIT_WINDOW = "edit-window"
_DEFAULT = "question-deviation"
WAYS: dict[str, tuple[str, int]] = {
    REUSE: ("none", 0),
    EDIT_WINDOW: ("none", REPAIRED),
    f"{EDIT_WINDOW}+{_DEFAULT}": (_DEFAULT, REPAIRED),
    _DEFAULT: (_DEFAULT, 0),
    Rest.name: (Rest.name, 0),
}
"""By the name in the table: the policy, and the tokens after the edit that are computed whatever it chooses."""

TRIALS = (
    Trial(REUSE, 0.0, EXACT),
    Trial(EDIT_WINDOW, 0.0, EXACT),
    *(Trial(name, 0.05, EXACT) for name in (f"{EDIT_WINDOW}+{_DEFAULT}", _DEFAULT)),
    Trial(Rest.name, 1.0, EXACT),
)
"""`exact` is what preceded the chunks before the edit."""


@dataclass(frozen=True, slots=True, eq=False)
class EditedCase(Case):
    """A case over one document, and what the document was before."""

    before: TokenIds


@dataclass(frozen=True, slots=True, eq=False)
class EditSet:
    """Cases of one kind.

    Args:
        passages: of which the filler is.
        context_tokens: about so many tokens of document.
        kind: one of `KINDS`.
    """

    passages: PassageSet
    context_tokens: int
    kind: str

    @property
    def name(self) -> str:
        """With the kind."""
        return f"edit-{self.kind}"

    @property
    def prefix(self) -> TokenIds:
        """As of the question set."""
        return self.passages.prefix

    def warm_ups(self) -> dict[str, list[TokenIds]]:
        """None: the document's own context is known."""
        return {}

    def cases(self, count: int) -> Iterator[EditedCase]:
        """The same number gives the same case. Where a number is edited, every second one gets a digit more."""
        frame, sentences = self.passages.frame, self.passages.sentences()
        for number in range(count):
            rng = random.Random(f"{self.kind} {number}")
            owners = rng.sample(OWNERS, RECORDS + 1)
            codes = [str(value) for value in rng.sample(range(100, 1000), RECORDS + 1)]
            called, edited = NUMBERS[number % len(NUMBERS)], rng.randrange(RECORDS)
            parts = [filler(rng, sentences, self.context_tokens // (RECORDS + 1) - 16, frame.tokenise)]
            changes: list[tuple[str, str]] = []
            for index in range(RECORDS):
                between = f" {rng.choice(sentences)}" if self.kind == "far" else ""
                old = _record(owners[index], called, codes[index], between)
                new = old
                if index == edited and self.kind == "number":
                    asked, answer = owners[index], codes[-1] + ("7" if number % 2 else "")
                    new = _record(asked, called, answer, between)
                elif index == edited:
                    asked, answer = owners[-1], codes[index]
                    new = _record(asked, called, answer, between)
                changes.append((old, new))
                parts.append(filler(rng, sentences, self.context_tokens // (RECORDS + 1) - 16, frame.tokenise))
            before, after = (
                parts[0] + "".join(f" {change[which]} {part}" for change, part in zip(changes, parts[1:], strict=True))
                for which in (0, 1)
            )
            said = f"The {called} in the file of Dr. {asked} is"
            question = np.concatenate(
                [frame.question(f"What is the {called} in the file of Dr. {asked}?"), frame.tokenise(said)]
            )
            tokens = frame.tokenise(f"{said} {answer}")[len(frame.tokenise(said)) :]
            document = frame.tokenise(f"{after}\n\n")
            prompt = Prompt(self.prefix, (document,), question)
            yield EditedCase(f"{self.name}-{number}", self.name, prompt, tokens, frame.tokenise(f"{before}\n\n"))


def _record(owner: str, called: str, code: str, between: str) -> str:
    return f"The next file belongs to Dr. {owner}.{between} The {called} in this file is {code}."


def common(before: TokenIds, after: TokenIds) -> list[Run]:
    """What the chunks of a document before one edit and the document after it have in common, along both diagonals."""
    shift = len(after) - len(before)
    found: list[Run] = []
    begin = 0
    for end in cut(before, CHUNK_TOKENS):
        chunk = before[begin:end]
        guesses = [Diagonal(b"", len(chunk), begin + moved, 0) for moved in {0, shift}]
        taken = [(run.begin, run.end) for run in found]
        found += [
            Run(begin + run.source_begin, run.begin, run.length) for run in runs(after, chunk, guesses, taken=taken)
        ]
        begin = end
    return sorted(found, key=lambda run: run.begin)


def outcomes(engine: Engine, case: Case, trials: Sequence[Trial], shared: Shared) -> Iterator[tuple[Trial, Outcome]]:
    """Try ways to go on after an edit."""
    if not isinstance(case, EditedCase):
        raise TypeError(f"expected an edited case; got {type(case).__name__}")
    reference = Reference.of(engine, case)
    begin = len(case.prompt.prefix)
    kept = engine.prefill(case.before, shared.prefix.layers)
    exact = engine.to_chunk(case.prompt.prefix, shared.prefix.layers, 0, unrotate=False)
    prefix = PlacedChunk(exact, ReusedChunk(0, begin, kind=VariantKind.EXACT), exact=True)
    document = case.prompt.documents[0]
    found = common(case.before, document)
    edit = next((i for i, run in enumerate(found) if run.begin != (found[i - 1].end if i else 0)), len(found))
    placed = []
    for index, run in enumerate(found):
        source = slice(run.source_begin, run.source_begin + run.length)
        layers = [LayerTensors(layer.keys[:, :, source], layer.values[:, :, source]) for layer in kept]
        chunk = engine.to_chunk(case.before[source], layers, begin + run.source_begin, unrotate=True)
        place = ReusedChunk(begin + run.begin, begin + run.end, kind=VariantKind.EXACT)
        if index >= edit:
            alone = engine.prefill(case.before[source], shared.prefix.layers)
            plain = engine.to_chunk(case.before[source], alone, begin, unrotate=True)
            place = ReusedChunk(place.begin, place.end, b"", place.kind, dependence(chunk.values, plain.values))
        placed.append(PlacedChunk(chunk, place, index < edit))
    for trial in trials:
        name, window = WAYS[trial.policy]
        policy: RecomputePolicy = Rest() if name == Rest.name else policy_by_name(name)
        tried = [prefix, *placed[:edit], *_repaired(placed[edit:], window)]
        yield trial, judge(engine, reference, tried, policy, trial.recompute_ratio)


def _repaired(placed: Sequence[PlacedChunk], window: int) -> list[PlacedChunk]:
    """The first tokens after the edit, to the end of what is left of their chunk at most."""
    return [
        PlacedChunk(chunk.kv, chunk.place, chunk.exact, min(window, chunk.place.tokens) if index == 0 else 0)
        for index, chunk in enumerate(placed)
    ]
