"""Observed offsets between texts' stored KV and their KV in real contexts: KVCOMM (NeurIPS 2025, arXiv 2510.12872).

An anchor is a text's KV as it is stored (base) and what its tokens' KV in a prompt was beyond it (delta). The base of a
new text is compared with those of the anchors that are at least as long:

    w_a = softmax_a(-||V - V_a||_2),  H(w) > gamma log2 n: too uncertain, compute and learn (gate; gamma = 0.3)
    K' = K + sum_a wK_a dK_a,  wK_a = softmax_a(-mean|K - K_a|), one weight per token; V likewise by V's distance

With one anchor or none there is nothing to compare, so the text is computed too. Where the paper rotates keys to their
position in the request and takes deltas in that frame, keys here are un-rotated, so that an anchor serves at any
position. It keeps one pool per agent and placeholder; a prompt here has no such roles, so one pool serves all texts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.types import Array

MAX_ANCHORS = 20
ENTROPY_LIMIT = 0.3
ACTIVATED_SHARE = 0.9
_EVICTION_AGE = 5
_KEPT = ml_dtypes.bfloat16
"""Range of float32 in half of the memory; deltas are estimates anyway."""


@dataclass(frozen=True, slots=True, eq=False)
class SpanKV:
    """Un-rotated KV of a run of tokens: per layer `[kv_heads, tokens, dim]`, float32."""

    keys: tuple[NDArray[np.float32], ...]
    values: tuple[NDArray[np.float32], ...]

    @property
    def tokens(self) -> int:
        """Its length."""
        return int(self.keys[0].shape[1])


@dataclass(slots=True, eq=False)
class Anchor:
    """A text's stored KV and its offset in one real context, per layer as in `SpanKV`, in bfloat16.

    Attributes:
        activations: how often its weight counted in an estimate.
    """

    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    key_deltas: tuple[Array, ...]
    value_deltas: tuple[Array, ...]
    activations: int = 0

    @property
    def tokens(self) -> int:
        """Its length."""
        return int(self.keys[0].shape[1])

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return sum(a.nbytes for part in (self.keys, self.values, self.key_deltas, self.value_deltas) for a in part)


class AnchorPool:
    """The anchors of one model and one namespace. Not thread-safe; in memory only, so a fresh one estimates nothing.

    Args:
        capacity_bytes: most memory of all anchors together.
        max_anchors: most anchors; beyond either limit the least activated of the oldest 5 goes.
        entropy_limit: gamma above.
        learned: called after it has changed.
    """

    def __init__(
        self,
        capacity_bytes: int = 1 << 30,
        *,
        max_anchors: int = MAX_ANCHORS,
        entropy_limit: float = ENTROPY_LIMIT,
        learned: Callable[[], None] = lambda: None,
    ) -> None:
        self._capacity = capacity_bytes
        self._max_anchors = max_anchors
        self._entropy_limit = entropy_limit
        self._learned = learned
        self.anchors: list[Anchor] = []
        """The oldest first."""

    def add(self, base: SpanKV, real: SpanKV) -> None:
        """Learn what a text's KV became in a context. An anchor beyond the whole capacity is not kept."""
        anchor = Anchor(
            _kept(base.keys),
            _kept(base.values),
            _kept(r - b for r, b in zip(real.keys, base.keys, strict=True)),
            _kept(r - b for r, b in zip(real.values, base.values, strict=True)),
        )
        if anchor.nbytes > self._capacity:
            return
        self.anchors.append(anchor)
        while len(self.anchors) > self._max_anchors or sum(a.nbytes for a in self.anchors) > self._capacity:
            # The new one stays: it is what the last request needed.
            oldest = self.anchors[: min(_EVICTION_AGE, len(self.anchors) - 1)]
            self.anchors.remove(min(oldest, key=lambda a: a.activations))
        self._learned()

    def estimate(self, base: SpanKV) -> SpanKV | None:
        """What a text's KV may be in a context, layer 0 as it is; `None` where the gate says to compute it.

        Anchors that make up the first 0.9 of the gate's weight count as activated.
        """
        near = [anchor for anchor in self.anchors if anchor.tokens >= base.tokens]
        if len(near) <= 1:
            return None
        weights = _softmax(-np.array([_l2(base.values, anchor.values) for anchor in near]))
        # Written so that NaN does not pass either.
        if not _entropy(weights) <= self._entropy_limit * np.log2(len(near)):
            return None
        for index in _top_share(weights):
            near[index].activations += 1
        keys = _shifted(base.keys, [(a.keys, a.key_deltas) for a in near])
        values = _shifted(base.values, [(a.values, a.value_deltas) for a in near])
        return SpanKV(keys, values)


def _kept(arrays: Iterable[NDArray[np.float32]]) -> tuple[Array, ...]:
    return tuple(array.astype(_KEPT) for array in arrays)


def _part(kept: Array, tokens: int) -> NDArray[np.float32]:
    """The first tokens of a kept array, as float32."""
    wide: NDArray[np.float32] = kept[:, :tokens].astype(np.float32)
    return wide


def _l2(base: tuple[NDArray[np.float32], ...], kept: tuple[Array, ...]) -> float:
    """L2 distance over all layers, heads, tokens and elements."""
    squares = (float(np.square(b - _part(k, b.shape[1])).sum()) for b, k in zip(base, kept, strict=True))
    return float(np.sqrt(sum(squares)))


def _per_token(base: tuple[NDArray[np.float32], ...], kept: tuple[Array, ...]) -> NDArray[np.float64]:
    """Mean absolute difference of each token over layers, heads and elements, `[tokens]`."""
    total = np.zeros(base[0].shape[1], np.float64)
    for b, k in zip(base, kept, strict=True):
        total += np.abs(b - _part(k, b.shape[1])).sum((0, 2))
    total /= sum(b.shape[0] * b.shape[2] for b in base)
    return total


def _shifted(
    base: tuple[NDArray[np.float32], ...], anchors: list[tuple[tuple[Array, ...], tuple[Array, ...]]]
) -> tuple[NDArray[np.float32], ...]:
    """`base` plus the anchors' deltas, weighted per token by nearness; the first layer as it is."""
    weights = _softmax(-np.stack([_per_token(base, kept) for kept, _ in anchors])).astype(np.float32)
    # Below the precision of what is kept, an anchor adds time only.
    counting = [(weight, deltas) for weight, (_, deltas) in zip(weights, anchors, strict=True) if weight.max() > 1e-4]
    shifted = [base[0]]
    for layer in range(1, len(base)):
        result = base[layer].copy()
        for weight, deltas in counting:
            result += weight[None, :, None] * _part(deltas[layer], result.shape[1])
        shifted.append(result)
    return tuple(shifted)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Over the first axis."""
    exponentials = np.exp(scores - scores.max(0))
    weights: NDArray[np.float64] = exponentials / exponentials.sum(0)
    return weights


def _entropy(weights: NDArray[np.float64]) -> float:
    """In bits."""
    positive = weights[weights > 0]
    return float(-(positive * np.log2(positive)).sum()) if positive.size else float("nan")


def _top_share(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """The fewest anchors whose weights add up to the activated share."""
    order = np.argsort(-weights, kind="stable")
    count = int(np.searchsorted(np.cumsum(weights[order]), ACTIVATED_SHARE)) + 1
    return order[:count]
