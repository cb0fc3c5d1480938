"""Which tokens are stored exactly: a rule that finds, by their keys alone, those the model depends on most."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.profile.types import Matrix, OutlierRule
from kvquilt_codec.types import KVLayout
from kvquilt_router.calibration.gather import Gathered
from kvquilt_router.calibration.sensitivity import Sensitivity

TOKENS_PER_OUTLIER = 256
DEPTHS = (1 / 4, 1 / 2)
"""Layers that are tried: sinks show in their keys from about there on."""
QUANTILES = (0.999, 0.998, 0.997, 0.995, 0.99, 0.98)
"""Distances that are tried: these quantiles of all calibration tokens' distances, the farthest first."""
RETAINED = 0.98
"""The rule's distance is the first that retains this share of what the budget alone captures, so that a chunk without
sinks stores few tokens or none."""
_TRIMMED = 0.02

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
    ends = np.cumsum(gathered.lengths)[:-1]
    return np.concatenate([mark(rule, part) for part in np.split(distance, ends)])


def trimmed_mean(x: Matrix, keys: int) -> Matrix:
    """Mean `[channels]` without the tokens whose keys are farthest: a sink outweighs hundreds of others."""
    distance = distances(x, x.mean(axis=0), keys)
    kept: Matrix = x[distance <= np.quantile(distance, 1 - _TRIMMED)].mean(axis=0)
    return kept


def choose_rule(gathered: Gathered, sensitivity: Sensitivity, texts: Sequence[int]) -> OutlierRule:
    """The layer whose farthest keys, one in `TOKENS_PER_OUTLIER`, hold the most of the texts' sensitivity.

    Args:
        gathered: KV to learn from.
        sensitivity: of the first tokens of some of its texts.
        texts: which they are.
    """
    best, found = -1.0, (0, np.zeros(1, np.float32))
    first, last = (int(len(gathered.layout.layers) * depth) for depth in DEPTHS)
    for layer in range(first, last + 1):
        x = gathered.layer(layer)
        keys = key_channels(gathered.layout, layer)
        distance = distances(x, trimmed_mean(x, keys), keys)
        captured = _captured(OutlierRule(layer, 0.0, TOKENS_PER_OUTLIER), gathered, distance, sensitivity, texts)
        if captured > best:
            best, found = captured, (layer, distance)
    layer, distance = found
    for quantile in QUANTILES:
        rule = OutlierRule(layer, float(np.quantile(distance, quantile)), TOKENS_PER_OUTLIER)
        if _captured(rule, gathered, distance, sensitivity, texts) >= RETAINED * best:
            break
    return rule


def _captured(
    rule: OutlierRule, gathered: Gathered, distance: Distances, sensitivity: Sensitivity, texts: Sequence[int]
) -> float:
    """Mean share of a text's sensitivity that is in the marked tokens."""
    begins = np.cumsum((0, *gathered.lengths))
    shares = []
    for number, text in enumerate(texts):
        totals = sensitivity.of_tokens(number)
        found = mark(rule, distance[begins[text] :][: len(totals)])
        shares.append(float(totals[found].sum() / max(totals.sum(), np.finfo(np.float64).tiny)))
    return float(np.mean(shares))
