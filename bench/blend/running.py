"""Runs what is not on record yet, and puts it there case by case."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

from blend.anchored import ANCHORED, anchored
from blend.record import Line, Record, Tried, digest
from blend.sets import Planned
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.run import Shared
from kvquilt_router.evaluation.types import Case, Outcome, Trial
from kvquilt_router.evaluation.variants import Codec

ANCHOR_CASES = 16

Step = Callable[[str, int], None]
"""Told what is being tried, and how many trials are done since the last call."""


class Run:
    """One set's cases.

    Args:
        model: with a tokenizer.
        planned: the set.
        trials: on every case.
        codecs: by level.
        record: where finished cases go.
        conditions: that everything is measured under.
        anchors: whether `anchors` is tried too, on the first cases in order.
    """

    def __init__(
        self,
        model: LoadedModel,
        planned: Planned,
        trials: Sequence[Trial],
        codecs: Mapping[str, Codec],
        record: Record,
        conditions: dict[str, object],
        *,
        anchors: bool,
    ) -> None:
        self._model = model
        self._set = planned.cases
        self._attempt = planned.attempt
        self._trials = trials
        self._codecs = codecs
        self._record = record
        self._digest = digest({**conditions, "set": planned.cases.name}, planned.sources)
        self._cases = list(islice(planned.cases.cases(planned.count), planned.count))
        self._anchored = self._cases[:ANCHOR_CASES] if anchors else []

    @property
    def finished(self) -> dict[str, list[Line]]:
        """What is on record of the cases that are asked for."""
        found = self._record.read(self._digest)
        return {case.name: found[case.name] for case in self._cases if case.name in found}

    def left(self) -> list[tuple[Case, list[Trial]]]:
        """What is not, by case."""
        done = {name: {tried.trial for line in lines for tried in line.tried} for name, lines in self.finished.items()}
        left = [(case, [t for t in self._trials if t not in done.get(case.name, ())]) for case in self._cases]
        return [(case, trials) for case, trials in left if trials]

    def anchors_left(self) -> bool:
        """Whether the sequence of `anchors` is not on record as a whole."""
        done = {
            name for name, lines in self.finished.items() for line in lines for t in line.tried if t.trial == ANCHORED
        }
        return any(case.name not in done for case in self._anchored)

    def steps(self) -> int:
        """Trials that are left."""
        return sum(len(trials) for _, trials in self.left()) + (len(self._anchored) if self.anchors_left() else 0)

    def __call__(self, step: Step) -> Iterator[str]:
        """Do what is left; yields a line about every case that was put on record."""
        if not self.steps():
            return
        step(f"{self._set.name}: warm-up passages", 0)
        shared = Shared.computed(self._model.engine, self._set.prefix, self._set.warm_ups(), self._codecs)
        for case, trials in self.left():
            started = time.monotonic()
            tried = []
            for trial, outcome in self._attempt(self._model.engine, case, trials, shared):
                tried.append(Tried(trial, outcome))
                step(case.name, 1)
            self._record.append(self._line(case, tried))
            yield f"{case.name}: {len(case.prompt.token_ids)} tokens, {time.monotonic() - started:.0f} s"
        if self.anchors_left():
            yield from self._in_order(shared, step)

    def _in_order(self, shared: Shared, step: Step) -> Iterator[str]:
        found: list[tuple[Case, Trial, Outcome]] = []
        for case, trial, outcome in anchored(self._model.engine, self._anchored, shared):
            found.append((case, trial, outcome))
            step(f"anchors: {case.name}", 1)
        for case, trial, outcome in found:
            self._record.append(self._line(case, [Tried(trial, outcome)]))
        yield f"anchors: {len(found)} cases of {self._set.name} in order"

    def _line(self, case: Case, tried: Sequence[Tried]) -> Line:
        tokens, reused = len(case.prompt.token_ids), sum(map(len, case.prompt.documents[1:]))
        return Line(self._digest, self._set.name, case.name, tokens, reused, tuple(tried))
