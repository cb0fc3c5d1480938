"""CacheGen as its paper describes it (Liu et al., SIGCOMM 2024, arXiv:2310.07240): anchors, deltas, static tables.

LMCache's released coder of that name has neither anchors nor static tables; see `lmcache_cachegen`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from comparators.types import BFLOAT16, Context, Stored
from kvquilt_codec.types import Array, KVChunk, KVLayout, TokenIds

GROUP = 10
BINS = (0.5, 1.0, 1.5)
"""Widths of a delta's interval in the first, middle and last third of the layers. The paper does not say in which
unit; here it is the root mean square of the deltas of a layer's keys or values over the texts it is learned from."""
ANCHOR = 127
DELTA = 63
_ESCAPE_BITS = 16
_PRIOR = 4.0
"""Counts that every channel's table is given in the proportions of all channels of its tensor."""

Table = NDArray[np.float64]
Floats = NDArray[np.float32]
Integers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class _Symbols:
    """A tensor's integers: anchors with their scales, and deltas (0 where the token is an anchor)."""

    anchors: Integers
    scales: Floats
    deltas: Integers


@dataclass(frozen=True, slots=True, eq=False)
class _Coder:
    """One layer's keys or values: the width of a delta's interval, and bits a symbol `[channels, symbols]`."""

    width: float
    anchor_bits: Table
    delta_bits: Table


class CacheGenPaper:
    """Groups of 10 tokens: the first at 8 bits with a scale of its own, the others as differences from it.

    Every layer and channel of keys and of values has its own static distributions of anchors and of deltas. Their
    rate is the ideal code length, which no arithmetic coder beats, so it has no speed.

    Args:
        contexts: to learn the distributions from; other texts than those it is used on.
        scale: of all intervals' widths.
    """

    timed = False

    def __init__(self, contexts: Sequence[Context], scale: float = 1.0) -> None:
        self.method = "CacheGen (paper)"
        self.level = "bins .5/1/1.5" if scale == 1 else f"bins x {scale:g}"
        tensors = [list(_tensors(context.rotated)) for context in contexts]
        layers = len(tensors[0]) // 2
        self._coders = tuple(
            _learn([text[index] for text in tensors], scale * BINS[index // 2 * 3 // layers])
            for index in range(2 * layers)
        )

    def encode(self, context: Context) -> Stored:
        """See `Comparator.encode`."""
        bits, content = 0.0, []
        for tensor, coder in zip(_tensors(context.rotated), self._coders, strict=True):
            symbols = _quantise(tensor, coder.width)
            bits += _length(symbols.anchors, coder.anchor_bits, ANCHOR)
            bits += _length(symbols.deltas[_is_delta(len(tensor))], coder.delta_bits, DELTA)
            bits += 8 * BFLOAT16.itemsize * symbols.scales.size
            content.append(symbols)
        return Stored(bits, content)

    def decode(self, stored: Stored, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
        """See `Comparator.decode`."""
        tensors: list[Array] = []
        for index, (symbols, coder) in enumerate(zip(stored.content, self._coders, strict=True)):
            shape = (len(token_ids), layout.layers[index // 2].kv_heads, -1)
            tensors.append(_dequantise(symbols, coder.width).astype(BFLOAT16).reshape(shape))
        return KVChunk(layout, token_ids, tuple(tensors[0::2]), tuple(tensors[1::2]), 0)


def _tensors(chunk: KVChunk) -> Iterator[Floats]:
    """Keys and values of layer 0, of layer 1, ...: `[tokens, channels]`."""
    for pair in zip(chunk.keys, chunk.values, strict=True):
        for tensor in pair:
            yield tensor.astype(np.float32).reshape(len(tensor), -1)


def _is_delta(tokens: int) -> NDArray[np.bool_]:
    return np.arange(tokens) % GROUP != 0


def _anchors(tensor: Floats) -> tuple[Integers, Floats]:
    rows = tensor[::GROUP]
    scales = (np.abs(rows).max(axis=1, keepdims=True) / ANCHOR).astype(BFLOAT16).astype(np.float32)
    scales[scales == 0] = 1.0
    return np.rint(rows / scales).clip(-ANCHOR, ANCHOR).astype(np.int32), scales


def _differences(tensor: Floats, anchors: Floats) -> Floats:
    return tensor - np.repeat(anchors, GROUP, axis=0)[: len(tensor)]


def _quantise(tensor: Floats, width: float) -> _Symbols:
    anchors, scales = _anchors(tensor)
    deltas = np.rint(_differences(tensor, anchors * scales) / np.float32(width)).astype(np.int32)
    deltas[~_is_delta(len(tensor))] = 0
    return _Symbols(anchors, scales, deltas)


def _dequantise(symbols: _Symbols, width: float) -> Floats:
    base = np.repeat(symbols.anchors * symbols.scales, GROUP, axis=0)[: len(symbols.deltas)]
    return base + symbols.deltas * np.float32(width)


def _learn(texts: Sequence[Floats], bin_width: float) -> _Coder:
    square, count = 0.0, 0
    for tensor in texts:
        anchors, scales = _anchors(tensor)
        deltas = _differences(tensor, anchors * scales)[_is_delta(len(tensor))]
        square += float(np.square(deltas, dtype=np.float64).sum())
        count += deltas.size
    width = bin_width * ((square / count) ** 0.5 or 1.0)
    channels = texts[0].shape[1]
    anchor_counts, delta_counts = np.zeros((channels, 2 * ANCHOR + 2)), np.zeros((channels, 2 * DELTA + 2))
    for tensor in texts:
        symbols = _quantise(tensor, width)
        anchor_counts += _counts(symbols.anchors, ANCHOR)
        delta_counts += _counts(symbols.deltas[_is_delta(len(tensor))], DELTA)
    return _Coder(width, _bits(anchor_counts), _bits(delta_counts))


def _folded(symbols: Integers, largest: int) -> Integers:
    """To 0..2 * largest, and 2 * largest + 1 for all beyond."""
    return np.where(np.abs(symbols) <= largest, symbols + largest, 2 * largest + 1)


def _counts(symbols: Integers, largest: int) -> Table:
    size, channels = 2 * largest + 2, symbols.shape[1]
    flat = _folded(symbols, largest) + np.arange(channels) * size
    return np.bincount(flat.ravel(), minlength=channels * size).reshape(channels, size).astype(np.float64)


def _bits(counts: Table) -> Table:
    pooled = counts.sum(axis=0) + 1
    smooth = counts + _PRIOR * pooled / pooled.sum()
    table: Table = -np.log2(smooth / smooth.sum(axis=1, keepdims=True))
    return table


def _length(symbols: Integers, bits: Table, largest: int) -> float:
    folded = _folded(symbols, largest)
    coded = bits[np.arange(symbols.shape[1]), folded].sum()
    return float(coded + _ESCAPE_BITS * (folded == 2 * largest + 1).sum())
