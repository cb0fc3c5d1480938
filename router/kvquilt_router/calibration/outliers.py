"""Which tokens are stored exactly: rules that find, by their keys alone, those the model depends on most."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.joint.exact import mark
from kvquilt_codec.profile.types import Matrix, OutlierRule
from kvquilt_codec.types import KVLayout
from kvquilt_router.calibration.gather import Gathered
from kvquilt_router.calibration.sensitivity import Sensitivity

DEPTHS = (1 / 4, 1 / 2)
"""Layers that are tried, as shares of all: sinks show in the keys of these."""
TOKENS_PER_OUTLIER = (256, 128, 64)
"""Budgets that are tried."""
QUANTILES = (0.999, 0.998, 0.997, 0.995, 0.99, 0.98)
"""Distances that are tried: these quantiles of all calibration tokens' distances. A chunk without sinks has few tokens
beyond them, or none."""
MAX_RULES = 2
LEAST_SAVING = 0.02
"""Bits an element that a rule must save."""
_SPARED_BITS = 3
"""About what an element takes that is not stored exactly."""
_TRIMMED = 0.02
_LEAST_REST = 1e-3

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32]


def key_channels(layout: KVLayout, layer: int) -> int:
    """Channels of a layer's keys; they come before those of its values."""
    shape = layout.layers[layer]
    return shape.kv_heads * shape.key_dim


def distances(x: Matrix, mean: Matrix, keys: int) -> Distances:
    """L2 distances `[tokens]` of the first `keys` channels from their mean."""
    result: Distances = np.linalg.norm(x[:, :keys] - mean[:keys], axis=1)
    return result


def mark_all(rules: Sequence[OutlierRule], gathered: Gathered, means: Mapping[int, Matrix]) -> Mask:
    """`[tokens]`: what any of the rules marks in each of the texts; `means` are those of the rules' layers."""
    marked = np.zeros(gathered.tokens, np.bool_)
    for rule in rules:
        keys = key_channels(gathered.layout, rule.layer)
        marked |= _mark_texts(rule, gathered, distances(gathered.layer(rule.layer), means[rule.layer], keys))
    return marked


def _mark_texts(rule: OutlierRule, gathered: Gathered, distance: Distances) -> Mask:
    ends = np.cumsum(gathered.lengths)[:-1]
    return np.concatenate([mark(rule, part) for part in np.split(distance, ends)])


def trimmed_mean(x: Matrix, keys: int) -> Matrix:
    """Mean `[channels]` without the tokens whose keys are farthest: a sink outweighs hundreds of others."""
    distance = distances(x, x.mean(axis=0), keys)
    kept: Matrix = x[distance <= np.quantile(distance, 1 - _TRIMMED)].mean(axis=0)
    return kept


def choose_rules(gathered: Gathered, sensitivity: Sensitivity, texts: Sequence[int]) -> tuple[OutlierRule, ...]:
    """The rules with which all tokens together take the fewest bits at equal quality, as far as sensitivity tells.

    Half of the sensitivity in exact tokens lets the others have twice the squared error, which saves half a bit an
    element; exact tokens cost their raw bits. Sinks of different kinds show at different depths, so a further rule is
    added while it saves `LEAST_SAVING` bits an element.

    Args:
        gathered: KV to learn from.
        sensitivity: of the first tokens of some of its texts.
        texts: which they are.
    """
    candidates = _candidates(gathered)
    marked = np.zeros(gathered.tokens, np.bool_)
    bits = 0.0
    rules: list[OutlierRule] = []
    while len(rules) < MAX_RULES:
        tried = [
            (_bits(gathered, marked | _mark_texts(rule, gathered, distance), sensitivity, texts), index)
            for index, (rule, distance) in enumerate(candidates)
        ]
        fewest, index = min(tried)
        if fewest > bits - LEAST_SAVING:
            break
        rule, distance = candidates[index]
        found = _mark_texts(rule, gathered, distance)
        # Sinks far beyond the quantile: half-way to them, so that an ordinary token at the quantile is none.
        least = float(distance[found].min(initial=np.inf))
        rules.append(replace(rule, distance=float(np.sqrt(rule.distance * least))))
        marked, bits = marked | found, fewest
    return tuple(rules)


def _candidates(gathered: Gathered) -> list[tuple[OutlierRule, Distances]]:
    first, last = (int(len(gathered.layout.layers) * depth) for depth in DEPTHS)
    found = []
    for layer in range(first, last + 1):
        x = gathered.layer(layer)
        keys = key_channels(gathered.layout, layer)
        distance = distances(x, trimmed_mean(x, keys), keys)
        for budget, limit in itertools.product(TOKENS_PER_OUTLIER, np.quantile(distance, QUANTILES)):
            found.append((OutlierRule(layer, float(limit), budget), distance))
    return found


def _bits(gathered: Gathered, marked: Mask, sensitivity: Sensitivity, texts: Sequence[int]) -> float:
    """What marked tokens cost, less what they save, in bits an element: 0 for none."""
    begins = np.cumsum((0, *gathered.lengths))
    captured, stored = [], []
    for number, text in enumerate(texts):
        totals = sensitivity.of_tokens(number)
        found = marked[begins[text] :][: len(totals)]
        captured.append(float(totals[found].sum() / max(totals.sum(), np.finfo(np.float64).tiny)))
        stored.append(float(found.mean()))
    cost = float(np.mean(stored)) * (gathered.layout.data_type.itemsize * 8 - _SPARED_BITS)
    return cost + 0.5 * float(np.log2(max(1 - float(np.mean(captured)), _LEAST_REST)))
