"""From a model and texts to a profile."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint.layer import Design, make_layers
from kvquilt_codec.profile.types import MAX_HISTORY, LayerTransform, Matrix, OutlierRule, Profile
from kvquilt_router.calibration.cards import LEVELS, with_cards
from kvquilt_router.calibration.fit import Fit, Sample, fit_layers
from kvquilt_router.calibration.gather import gather, key_channels
from kvquilt_router.calibration.outliers import choose_rules, mark_all, trimmed_mean
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.quality import Measured, Quality
from kvquilt_router.calibration.rate import bits_per_element
from kvquilt_router.calibration.reconstruct import reconstruct
from kvquilt_router.calibration.search import MEASUREMENTS, find_step
from kvquilt_router.calibration.sensitivity import measure_sensitivity
from kvquilt_router.calibration.tables import fit_tables
from kvquilt_router.calibration.texts import Corpus, Text, cut
from kvquilt_router.engine import LoadedModel

KL_TARGET = 5e-4
SENSITIVITY_PIECES = 16
MAX_WORDS = 4096
PREDICTION_TOKENS = 3000
"""With fewer tokens to learn from, prediction across layers does harm (measured), and is not tried."""
PREDICTION_GAIN = 0.10
"""Prediction must save this share of the bits: it makes layers wait for each other."""
SECOND_LAYER_GAIN = 0.10
"""Prediction from two layers must save this share beyond that from one: decoding takes half as long again."""
TARGET_MARGIN = 0.9
"""The step is sought for this share of the KL target: on other kinds of texts KL was a tenth higher (measured)."""
_FIRST_STEP = 0.15
"""Where the search begins, relative to the mean deviation of a channel."""


@dataclass(frozen=True, slots=True, eq=False)
class _Known:
    """What does not depend on the step."""

    training: Sample
    held_out: Sample
    weights: tuple[Matrix, ...]
    rules: tuple[OutlierRule, ...]
    quality: Quality
    quality_layers: int
    progress: Progress

    def design(self, step: float) -> Design:
        """What all layers share."""
        return Design(step, self.quality_layers)

    def fit(self, history: int, step: float, reuse: Sequence[LayerTransform] | None = None) -> Fit:
        """Transforms of all layers; with `reuse` those, counted at another step."""
        samples, design = (self.training, self.held_out), self.design(step)
        return fit_layers(*samples, self.weights, history, design, reuse=reuse, progress=self.progress)

    def rate(self, fit: Fit) -> float:
        """Bits per element with all quality layers."""
        return bits_per_element(self.held_out, fit_tables(fit.training, fit.measured).bits)

    def first_step(self) -> float:
        """Where the search for a step begins."""
        middle = len(self.weights) // 2
        deviation = float((self.training.layer(middle).std(axis=0) * self.weights[middle]).mean())
        return _FIRST_STEP * (deviation or 1.0)

    def measure(self, transforms: Sequence[LayerTransform], step: float) -> Measured:
        """Quality with all quality layers."""
        gathered, ends = self.held_out.gathered, np.cumsum(self.held_out.gathered.lengths)[:-1]
        layers = make_layers(transforms, self.design(step))
        return self.quality.measure(
            reconstruct(gathered.text(number), exact, layers, self.quality_layers)
            for number, exact in enumerate(np.split(self.held_out.exact, ends))
        )

    def find_step(self, layers: Sequence[LayerTransform], start: float, target: float) -> float:
        """The step whose KL with all quality layers meets the target."""
        measured: list[float] = []

        def kl(step: float) -> float:
            self.progress("step", len(measured), MEASUREMENTS)
            measured.append(self.measure(layers, step).kl)
            return measured[-1]

        return find_step(kl, start, TARGET_MARGIN * target)


def calibrate(
    model: LoadedModel,
    texts: Sequence[Text],
    *,
    kl_target: float = KL_TARGET,
    step: float | None = None,
    quality_layers: int = 2,
    history: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Profile:
    """Learn a profile; the same inputs give the same profile on the same machine.

    Takes minutes, and for memory the KV of the texts (`Gathered`) and the reference's log-probabilities (`Quality`).
    The cards are measured on containers of held-out texts, which also chose between alternatives.

    Args:
        model: with a tokenizer, on any device; weights in the element type in which it will serve.
        texts: of the kinds that will be stored; see `cut` for how many.
        kl_target: for the finest level, measured on held-out texts.
        step: of the finest level, instead of a search for the target's.
        quality_layers: how many levels, 1 to 3.
        history: layers to predict from (0 to 2), instead of a choice by measurement.
        seed: of the continuations that sensitivity is measured with.
        progress: told of every stage; may raise to end the work.

    Raises:
        BadRequestError: too few texts, a target that cannot be met, KV with NaN or Inf, or other bad arguments.
    """
    if not 1 <= quality_layers <= len(LEVELS):
        raise BadRequestError(f"expected 1..{len(LEVELS)} quality layers; got {quality_layers}")
    if history not in (None, 0, 1, 2):
        raise BadRequestError(f"expected to predict from 0, 1 or 2 layers; got {history}")
    if not kl_target > 0:
        raise BadRequestError(f"expected a KL target above 0; got {kl_target}")
    corpus = cut(texts, model.tokenise)
    known = _prepare(model, corpus, quality_layers, seed, progress)
    given = step
    step = known.first_step() if given is None else given
    plain = known.fit(0, step)
    if given is None:
        step = known.find_step(plain.layers, step, kl_target)
        plain = known.fit(0, step, plain.layers)
    chosen, fit = _choose(known, plain, step, history)
    if given is None and chosen:
        # Prediction changes the error a little; transforms that were fitted at one step serve one nearby as well.
        step = known.find_step(fit.layers, step, kl_target)
        fit = known.fit(chosen, step, fit.layers)
    return _profile(model, known, fit, step, corpus.description)


def _choose(known: _Known, plain: Fit, step: float, history: int | None) -> tuple[int, Fit]:
    """Layers to predict from, and the fit: the cheapest on held-out texts, prediction only if it saves enough."""
    if history == 0:
        return 0, plain
    if history is not None:
        return history, known.fit(history, step)
    chosen = (0, plain)
    if known.training.gathered.tokens < PREDICTION_TOKENS:
        return chosen
    allowed = known.rate(plain) * (1 - PREDICTION_GAIN)
    for reach in range(1, MAX_HISTORY + 1):
        fit = known.fit(reach, step)
        if (rate := known.rate(fit)) < allowed:
            chosen, allowed = (reach, fit), rate * (1 - SECOND_LAYER_GAIN)
    return chosen


def _prepare(model: LoadedModel, corpus: Corpus, quality_layers: int, seed: int, progress: Progress) -> _Known:
    engine = model.engine
    training = gather(engine, [piece.token_ids for piece in corpus.training], "prefill", progress)
    held_out = gather(engine, [piece.context for piece in corpus.held_out], "prefill of held-out texts", progress)
    probed = _spread(len(corpus.training), SENSITIVITY_PIECES)
    sensitivity = measure_sensitivity(
        engine, [corpus.training[index] for index in probed], seed=seed, progress=progress
    )
    rules = choose_rules(training, sensitivity, probed)
    used = {rule.layer: training.layer(rule.layer) for rule in rules}
    trimmed = {layer: trimmed_mean(x, key_channels(training.layout, layer)) for layer, x in used.items()}
    learned = Sample(training, mark_all(rules, training, trimmed))
    means = {layer: x[~learned.exact].mean(axis=0) for layer, x in used.items()}
    return _Known(
        learned,
        Sample(held_out, mark_all(rules, held_out, means)),
        sensitivity.weights(),
        rules,
        Quality(model, corpus.held_out, progress),
        quality_layers,
        progress,
    )


def _spread(count: int, most: int) -> list[int]:
    """At most so many of the indices below `count`, evenly."""
    used = min(count, most)
    return [index * count // used for index in range(used)]


def _profile(model: LoadedModel, known: _Known, fit: Fit, step: float, texts: str) -> Profile:
    tables = fit_tables(fit.training, fit.measured).quality
    profile = Profile(
        model.fingerprint,
        fit.layers,
        step,
        tables,
        known.rules,
        (),
        texts[:MAX_WORDS],
    )
    return with_cards(profile, known.held_out.gathered.chunks, known.quality, known.progress)
