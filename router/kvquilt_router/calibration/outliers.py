"""Which tokens are stored exactly: rules that find, by their keys alone, those the model depends on most."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.joint.exact import EXACT_BITS, mark
from kvquilt_codec.profile.types import Matrix, OutlierRule
from kvquilt_router.calibration.gather import Gathered, key_channels
from kvquilt_router.calibration.sensitivity import Sensitivity

DEPTHS = (1 / 4, 1 / 2)
"""Layers that are tried, as shares of all: sinks show in the keys of these."""
TOKENS_PER_OUTLIER = (1024, 512, 256, 128, 64)
"""Budgets that are tried."""
QUANTILES = (0.999, 0.998, 0.997, 0.995, 0.99, 0.98)
"""Distances that are tried: these quantiles of all calibration tokens' distances. A chunk without sinks has few tokens
beyond them, or none."""
LEAST_SAVING = 0.02
"""Bits an element that a rule must save."""
_SPARED_BITS = 3
"""About what an element takes that is not stored exactly."""
_BITS_PER_HALVING = 0.45
"""What an element takes less when the squared error may double (measured on SmolLM2: 0.44 to 0.50)."""
_TRIMMED = 0.02
_LEAST_REST = 1e-3

Mask = NDArray[np.bool_]
Distances = NDArray[np.float32]
Shares = NDArray[np.floating]


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

    Half of the sensitivity in exact tokens lets the others have twice the squared error; exact tokens cost their raw
    bits. Sinks of different kinds show at different depths, so pairs of rules are tried, all of them; a second rule,
    like the first, must save `LEAST_SAVING` bits an element.

    Args:
        gathered: KV to learn from.
        sensitivity: of the first tokens of some of its texts.
        texts: which they are.
    """
    candidates = _candidates(gathered)
    begins = np.cumsum((0, *gathered.lengths))
    totals = [sensitivity.of_tokens(number) for number in range(len(texts))]
    probed = np.concatenate(
        [np.arange(begins[text], begins[text] + len(part)) for text, part in zip(texts, totals, strict=True)]
    )
    least = np.finfo(np.float64).tiny
    shares = np.concatenate([part / max(part.sum(), least) for part in totals]) / len(texts)
    marks = np.stack([_mark_texts(rule, gathered, distance)[probed] for rule, distance in candidates])
    found = marks.astype(np.float32)
    # Of every pair what both find; of every rule what it finds, in the diagonal.
    captured, stored = (found * shares.astype(np.float32)) @ found.T, found @ found.T / len(probed)
    bits = _bits(_either(captured), _either(stored))
    first, second = np.unravel_index(int(bits.argmin()), bits.shape)
    alone = int(np.diag(bits).argmin())
    if bits[alone, alone] > -LEAST_SAVING and bits[first, second] > -2 * LEAST_SAVING:
        return ()
    chosen = [first, second] if bits[first, second] <= bits[alone, alone] - LEAST_SAVING else [alone]
    return tuple(_widened(*candidates[index], gathered) for index in chosen)


def _either(both: Shares) -> Shares:
    """What at least one of each pair has, of what both have."""
    own = np.diag(both)
    either: Shares = own[:, None] + own - both
    return either


def _bits(captured: Shares, stored: Shares) -> Shares:
    """What marked tokens cost, less what they save, in bits an element: 0 for none."""
    cost = stored * (EXACT_BITS - _SPARED_BITS)
    bits: Shares = cost + _BITS_PER_HALVING * np.log2(np.maximum(1 - captured, _LEAST_REST))
    return bits


def _widened(rule: OutlierRule, distance: Distances, gathered: Gathered) -> OutlierRule:
    """The rule with its distance half-way to what it finds, so that an ordinary token at the quantile is none."""
    least = float(distance[_mark_texts(rule, gathered, distance)].min(initial=np.inf))
    return replace(rule, distance=float(np.sqrt(rule.distance * least)))


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
