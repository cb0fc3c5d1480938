"""The sets of cases that are measured, and how many of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blend import continuation, facts, passages, texts
from blend.continuation import ContinuationSet
from blend.facts import FactSet
from blend.passages import Frame, PassageSet
from blend.types import CaseSet
from kvquilt_router.engine import LoadedModel


@dataclass(frozen=True, slots=True, eq=False)
class Planned:
    """A set, how many cases of it, and the files that decide what is in them."""

    cases: CaseSet
    count: int
    sources: tuple[Path, ...]


def planned(model: LoadedModel, context_tokens: int) -> Mapping[str, Planned]:
    """All sets by name, with the default number of cases."""
    frame = Frame(model.tokenise, model.frame.head, model.frame.tail)
    multi, single = (PassageSet(name, frame, context_tokens) for name in ("multi-hop", "single-hop"))
    qa = (Path(passages.__file__), Path(texts.__file__))
    plain = tuple(sorted(texts.FOLDER.glob("*.txt")))
    files = {name: passages.TEXTS / f"{name}.jsonl" for name in ("multi-hop", "single-hop")}
    sets = (
        Planned(multi, 32, (*qa, files["multi-hop"], *plain)),
        Planned(single, 32, (*qa, files["single-hop"], *plain)),
        Planned(FactSet(multi, context_tokens), 24, (*qa, Path(facts.__file__), files["multi-hop"], *plain)),
        Planned(
            ContinuationSet(model.tokenise, model.tokenise(model.frame.head), context_tokens),
            8,
            (Path(continuation.__file__), Path(texts.__file__), *plain),
        ),
    )
    return {each.cases.name: each for each in sets}
