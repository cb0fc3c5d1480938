"""The sets of cases that are measured, and how many of each."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from blend import continuation, edits, facts, passages, texts
from blend.continuation import ContinuationSet
from blend.edits import EditSet
from blend.facts import FactSet
from blend.passages import Frame, PassageSet
from blend.types import CaseSet
from kvquilt_codec import cutting
from kvquilt_router import matching
from kvquilt_router.engine import Engine, LoadedModel
from kvquilt_router.evaluation.run import Shared, outcomes
from kvquilt_router.evaluation.types import Case, Outcome, Trial

Attempt = Callable[[Engine, Case, Sequence[Trial], Shared], Iterator[tuple[Trial, Outcome]]]


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A set, how many cases of it, and the files that decide what is in them.

    Attributes:
        trials: on every case; `None`: those of `blend.trials`.
        attempt: tries them.
    """

    cases: CaseSet
    count: int
    sources: tuple[Path, ...]
    trials: Sequence[Trial] | None = None
    attempt: Attempt = outcomes


def planned(model: LoadedModel, context_tokens: int) -> Mapping[str, Planned]:
    """All sets by name, with the default number of cases."""
    frame = Frame(model.tokenise, model.frame.head, model.frame.tail)
    multi, single = (PassageSet(name, frame, context_tokens) for name in ("multi-hop", "single-hop"))
    qa = _files(passages, texts)
    plain = tuple(sorted(texts.FOLDER.glob("*.txt")))
    files = {name: passages.TEXTS / f"{name}.jsonl" for name in ("multi-hop", "single-hop")}
    sets = (
        Planned(multi, 32, (*qa, files["multi-hop"], *plain)),
        Planned(single, 32, (*qa, files["single-hop"], *plain)),
        Planned(FactSet(multi, context_tokens), 24, (*qa, *_files(facts), files["multi-hop"], *plain)),
        Planned(
            ContinuationSet(model.tokenise, model.tokenise(model.frame.head), context_tokens),
            8,
            (*_files(continuation, texts), *plain),
        ),
        *(
            Planned(
                EditSet(multi, context_tokens, kind),
                10,
                (*qa, *_files(facts, edits, matching, cutting), files["multi-hop"], *plain),
                trials=edits.TRIALS,
                attempt=edits.outcomes,
            )
            for kind in edits.KINDS
        ),
    )
    return {each.cases.name: each for each in sets}


def _files(*modules: ModuleType) -> list[Path]:
    return [Path(str(module.__file__)) for module in modules]
