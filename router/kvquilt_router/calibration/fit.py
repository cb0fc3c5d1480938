"""Fits the layers one after the other, each on what a decoder will have of the ones before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvquilt_codec.joint.layer import Design, History, Layer
from kvquilt_codec.profile import file
from kvquilt_codec.profile.types import LayerTransform, Matrix
from kvquilt_codec.transform.stages import Weigh
from kvquilt_router.calibration.gather import Gathered
from kvquilt_router.calibration.outliers import Mask
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.tables import Histograms

RIDGES = (1e-3, 1e-2, 1e-1)
"""Regularisation of predictors, relative to the mean variance of what they predict from."""
TABLE_TOKENS = 8192
"""Histograms are of at most so many tokens, evenly chosen (measured: tables need 1,500)."""

Basis = Callable[[Matrix], Matrix]
"""Chooses an orthonormal basis `[channels, channels]` for the residual `[tokens, channels]`."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Tokens to learn from or to measure on.

    Attributes:
        gathered: their KV.
        exact: `[tokens]`, those that are stored exactly: they are left out.
    """

    gathered: Gathered
    exact: Mask

    def layer(self, index: int) -> Matrix:
        """`[tokens, channels]`, without those that are stored exactly."""
        return self.gathered.layer(index)[~self.exact]


@dataclass(frozen=True, slots=True, eq=False)
class Fit:
    """Transforms of all layers, and the integers they lead to, counted."""

    layers: tuple[LayerTransform, ...]
    training: Histograms
    measured: Histograms


def klt(residual: Matrix) -> Matrix:
    """The Karhunen-Loève transform: eigenvectors of the covariance, the largest variance first."""
    covariance = (residual.T @ residual).astype(np.float64) / max(len(residual), 1)
    _, vectors = np.linalg.eigh(covariance)
    return np.ascontiguousarray(vectors[:, ::-1], np.float32)


def fit_layers(
    training: Sample,
    measured: Sample,
    weights: Sequence[Matrix],
    history: int,
    design: Design,
    *,
    basis: Basis = klt,
    reuse: Sequence[LayerTransform] | None = None,
    progress: Progress = silent,
) -> Fit:
    """Learn mean, predictor and basis of every layer, and count the integers they lead to.

    Holds about ten float32 copies of one layer's KV at a time.

    Args:
        training: to learn from.
        measured: from other texts; the regularisation is chosen by how well it predicts them.
        weights: per layer `[channels]`, above 0.
        history: 0 codes every layer by itself (tier A), 1 and 2 predict it from so many layers before (tier B).
        design: what all layers share.
        basis: the KLT, or another for comparison.
        reuse: transforms that are kept as they are; the integers are counted anew.
        progress: told of every layer.
    """
    fit = Fit((), Histograms(design.quality_layers), Histograms(design.quality_layers))
    layers: list[LayerTransform] = []
    learned, checked = _Samples(training), _Samples(measured)
    stage = f"fit, {history} layers of history"
    for index, weight in enumerate(weights):
        progress(stage, index, len(weights))
        transform = None if reuse is None else reuse[index]
        if transform is None:
            x = training.layer(index)
            mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
            weigh = Weigh(mean, weight)
            z = weigh(x)
            h = learned.latest(history)
            predictor = _predictor(h, z, checked.latest(history), weigh(measured.layer(index)))
            columns = basis(z if h is None or predictor is None else z - h @ predictor)
            predicts = None if predictor is None else predictor @ columns
            transform = file.rounded(LayerTransform(mean, weight, columns, predicts))
        layer = Layer(transform, design)
        learned.code(index, layer, fit.training, TABLE_TOKENS)
        checked.code(index, layer, fit.measured, None)
        layers.append(transform)
    progress(stage, len(weights), len(weights))
    return Fit(tuple(layers), fit.training, fit.measured)


class _Samples:
    """A sample, and its history as a decoder would have it."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._history: History = []

    def latest(self, layers: int) -> Matrix | None:
        """y of the last `layers` layers side by side; None before the first layer, or if none is asked for."""
        used = self._history[:layers]
        return np.concatenate(used, axis=1) if used else None

    def code(self, index: int, layer: Layer, histograms: Histograms, limit: int | None) -> None:
        """Quantise a layer and count its integers, those of at most `limit` tokens."""
        quantised = layer.quantise(layer.forward(self._sample.layer(index)), self._history)
        stride = 1 if limit is None else -(-len(quantised.nested[0]) // limit)
        histograms.add(quantised, stride)


def _predictor(h: Matrix | None, z: Matrix, h_measured: Matrix | None, z_measured: Matrix) -> Matrix | None:
    """Ridge regression; of several regularisations the one that predicts other texts best. None if nothing varies."""
    if h is None or h_measured is None:
        return None
    gram, cross = (h.T @ h).astype(np.float64), (h.T @ z).astype(np.float64)
    scale = float(np.trace(gram)) / len(gram)
    if scale <= 0:
        return None
    diagonal = np.eye(len(gram))
    candidates = [np.linalg.solve(gram + ridge * scale * diagonal, cross).astype(np.float32) for ridge in RIDGES]
    errors = [float(np.square(z_measured - h_measured @ candidate).sum(dtype=np.float64)) for candidate in candidates]
    return candidates[int(np.argmin(errors))]
