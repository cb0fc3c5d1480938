"""Which tokens are stored exactly: a rule that finds, by their keys alone, those the model depends on most."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

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


def mark(rule: OutlierRule, distance: Distances) -> Mask:
    """`[tokens]`, true for the tokens of one chunk that are stored exactly."""
    budget = -(-len(distance) // rule.tokens_per_outlier)
    farthest = np.argsort(-distance, kind="stable")[:budget]
    marked = np.zeros(len(distance), np.bool_)
    marked[farthest] = distance[farthest] > rule.distance
    return marked


def mark_all(rule: OutlierRule, gathered: Gathered, mean: Matrix) -> Mask:
    """`[tokens]`: `mark` for each of the texts; `mean` is that of the rule's layer."""
    distance = distances(gathered.layer(rule.layer), mean, key_channels(gathered.layout, rule.layer))
    return _mark_texts(rule, gathered, distance)


def _mark_texts(rule: OutlierRule, gathered: Gathered, distance: Distances) -> Mask:
    ends = np.cumsum(gathered.lengths)[:-1]
    return np.concatenate([mark(rule, part) for part in np.split(distance, ends)])


def trimmed_mean(x: Matrix, keys: int) -> Matrix:
    """Mean `[channels]` without the tokens whose keys are farthest: a sink outweighs hundreds of others."""
    distance = distances(x, x.mean(axis=0), keys)
    kept: Matrix = x[distance <= np.quantile(distance, 1 - _TRIMMED)].mean(axis=0)
    return kept


def choose_rule(gathered: Gathered, sensitivity: Sensitivity, texts: Sequence[int]) -> OutlierRule:
    """The rule with which all tokens together take the fewest bits at equal quality, as far as sensitivity tells.

    Half of the sensitivity in exact tokens lets the others have twice the squared error, which saves half a bit an
    element; exact tokens cost their raw bits.

    Args:
        gathered: KV to learn from.
        sensitivity: of the first tokens of some of its texts.
        texts: which they are.
    """
    best: tuple[float, OutlierRule, Distances] | None = None
    first, last = (int(len(gathered.layout.layers) * depth) for depth in DEPTHS)
    for layer in range(first, last + 1):
        x = gathered.layer(layer)
        keys = key_channels(gathered.layout, layer)
        distance = distances(x, trimmed_mean(x, keys), keys)
        limits = np.quantile(distance, QUANTILES)
        for budget, limit in itertools.product(TOKENS_PER_OUTLIER, limits):
            rule = OutlierRule(layer, float(limit), budget)
            captured, stored = _captured(rule, gathered, distance, sensitivity, texts)
            cost = stored * (gathered.layout.data_type.itemsize * 8 - _SPARED_BITS)
            bits = cost + 0.5 * float(np.log2(max(1 - captured, _LEAST_REST)))
            if best is None or bits < best[0]:
                best = bits, rule, distance
    if best is None:
        raise ValueError("expected KV of at least one layer")
    _, rule, distance = best
    marked = distance[_mark_texts(rule, gathered, distance)]
    # Sinks far beyond the quantile: half-way to them, so that an ordinary token at the quantile is none.
    between = float(np.sqrt(rule.distance * marked.min(initial=np.inf))) if len(marked) else rule.distance
    return replace(rule, distance=between)


def _captured(
    rule: OutlierRule, gathered: Gathered, distance: Distances, sensitivity: Sensitivity, texts: Sequence[int]
) -> tuple[float, float]:
    """Mean share of a text's sensitivity that is in the marked tokens, and their share of all tokens."""
    begins = np.cumsum((0, *gathered.lengths))
    shares, marked = [], []
    for number, text in enumerate(texts):
        totals = sensitivity.of_tokens(number)
        found = mark(rule, distance[begins[text] :][: len(totals)])
        shares.append(float(totals[found].sum() / max(totals.sum(), np.finfo(np.float64).tiny)))
        marked.append(float(found.mean()))
    return float(np.mean(shares)), float(np.mean(marked))
