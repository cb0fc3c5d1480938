"""Measures a gate: ways to blend, each on many cases, against full prefills, through the codec as it is stored."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.levels import level_cards
from kvquilt_codec.types import TokenIds
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.texts import Corpus, Piece
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.cases import CONTEXT_TOKENS
from kvquilt_router.evaluation.judge import ANSWER_TOKENS
from kvquilt_router.evaluation.kinds import MIN_PASSAGES, WARM_UP_PASSAGES, Kind, grouped, in_words, spread
from kvquilt_router.evaluation.passages import Cutter
from kvquilt_router.evaluation.prepared import Prepared
from kvquilt_router.evaluation.run import outcomes, stored
from kvquilt_router.evaluation.statistics import geometric_mean, upper_bound
from kvquilt_router.evaluation.types import BASE, EXACT, PAIR, WARM, Outcome, Trial
from kvquilt_router.policies import policy_by_name
from kvquilt_router.selection import EstimatingPolicy

SHARE, CONFIDENCE = 0.95, 0.90
MIN_CASES = 4


@dataclass(frozen=True, slots=True)
class Grid:
    """What is measured: every policy and ratio, on every context, at every level.

    Attributes:
        ways: policies by name, with shares of the reused tokens to recompute.
        contexts: of the reused chunks: `pair`, `warm`, `base`.
        levels: of the codec; none: all that the profile has.
        cases: how many.
    """

    ways: tuple[tuple[str, float], ...] = (
        ("none", 0.0),
        ("question-deviation", 0.05),
        ("question-deviation", 0.10),
        ("question-deviation", 0.20),
        ("question-deviation", 0.30),
        ("question-deviation", 0.50),
    )
    contexts: tuple[str, ...] = (PAIR, WARM, BASE)
    levels: tuple[str, ...] = ()
    cases: int = 24

    def trials(self, levels: Sequence[str]) -> list[Trial]:
        """Everything that is tried on a case; of exact contexts only the codec."""
        tried = [Trial("none", 0.0, EXACT, level) for level in levels]
        for level in levels:
            for context in self.contexts:
                warm_up = WARM if context == WARM else ""
                tried += [Trial(policy, ratio, context, level, warm_up) for policy, ratio in self.ways]
        return tried


def measure_gate(
    model: LoadedModel, coder: JointCoder, corpus: Corpus, grid: Grid | None = None, progress: Progress = silent
) -> Gate:
    """Measure; takes minutes. The texts are those that the codec profile was not learned from.

    Args:
        model: with a tokenizer.
        coder: of its codec profile.
        corpus: as calibration cut it. A prompt's passages are of one kind of text, the kinds in turn; passages to warm
            up with are from the texts of that kind that calibration learned from.
        grid: what to measure.
        progress: told of every case; may raise to end the work.

    Raises:
        BadRequestError: a level that the profile has not, too few cases, too little text, or a policy that learns.
    """
    grid = grid or Grid()
    for name, _ in grid.ways:
        if isinstance(policy_by_name(name), EstimatingPolicy):
            raise BadRequestError(
                f"expected policies whose choice depends on the prompt alone; {name!r} learns from requests, so what "
                "is measured today does not bound what it does tomorrow: leave it out of the gate"
            )
    known = [level.value for level in level_cards(coder.profile)]
    levels = grid.levels or tuple(known)
    if wrong := set(levels) - set(known):
        raise BadRequestError(f"expected levels in {known}; got {sorted(wrong)}: the profile has no others")
    if grid.cases < MIN_CASES:
        raise BadRequestError(f"expected at least {MIN_CASES} cases; got {grid.cases}")
    trials = grid.trials(levels)
    codecs = {level: stored(coder, level) for level in levels}
    measured: defaultdict[Trial, list[Outcome]] = defaultdict(list)
    prepared = Prepared(model, kinds_of(corpus, Cutter(model))[: grid.cases], codecs)
    for done, case in enumerate(prepared.cases(grid.cases)):
        progress("gate", done, grid.cases)
        for trial, outcome in outcomes(model.engine, case, trials, prepared.shared(case)):
            measured[trial].append(outcome)
    progress("gate", grid.cases, grid.cases)
    digest = coder.digest
    texts = (
        f"{grid.cases} prompts over texts that the codec profile was not learned from; "
        f"{in_words(prepared.kinds)}, the passages of a prompt of one kind"
    )
    points = tuple(point_of(trial, found) for trial, found in measured.items())
    return Gate(model.fingerprint, digest, ANSWER_TOKENS, SHARE, CONFIDENCE, texts, points)


def kinds_of(corpus: Corpus, cutter: Cutter) -> list[Kind]:
    """Passages of the held-out texts by kind, and passages of texts of the same kind to warm up with.

    Where no text of a kind was learned from, the passages to warm up with are of all kinds.
    """
    groups = grouped(_by_kind(corpus.held_out, cutter), MIN_PASSAGES, CONTEXT_TOKENS // 2)
    learned = _by_kind(corpus.training, cutter)
    every = [passage for passages_of_kind in learned.values() for passage in passages_of_kind]
    kinds = []
    for group in groups:
        same = [passage for kind in group.kinds for passage in learned.get(kind, ())] or every
        warming = [same[index] for index in spread(WARM_UP_PASSAGES, len(same))]
        kinds.append(Kind(group.name, group.passages, warming))
    return kinds


def _by_kind(pieces: Sequence[Piece], cutter: Cutter) -> dict[str, list[TokenIds]]:
    found: defaultdict[str, list[TokenIds]] = defaultdict(list)
    for piece in pieces:
        found[piece.kind].append(piece.token_ids)
    return {kind: cutter.passages(of_kind) for kind, of_kind in found.items()}


def point_of(trial: Trial, found: Sequence[Outcome]) -> GatePoint:
    """What was measured of a trial over at least `MIN_CASES` cases."""
    kl = [outcome.kl for outcome in found]
    return GatePoint(
        trial.policy,
        trial.recompute_ratio,
        trial.variant,
        trial.level,
        len(found),
        geometric_mean(kl),
        upper_bound(kl, SHARE, CONFIDENCE),
        fmean(outcome.top1_agreement for outcome in found),
        median(outcome.cpu_share for outcome in found),
    )
