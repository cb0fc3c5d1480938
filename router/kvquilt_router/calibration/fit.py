"""Fits the layers one after the other, each on what a decoder will have of the ones before."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from kvquilt_codec.profile.types import LayerTransform, Matrix
from kvquilt_codec.transform.stages import Rotate, Weigh, predict
from kvquilt_router.calibration.gather import Gathered
from kvquilt_router.calibration.outliers import Mask
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.quantise import dequantise, quantise
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


@dataclass(frozen=True, slots=True)
class Design:
    """What is decided before a fit.

    Attributes:
        history: 0 codes every layer by itself (tier A), 1 and 2 predict it from so many layers before (tier B).
        step: width of the finest quantisation interval.
        quality_layers: how many; the history is as the coarsest gives it.
    """

    history: int
    step: float
    quality_layers: int


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
        design: what is decided.
        basis: the KLT, or another for comparison.
        reuse: transforms that are kept as they are; the integers are counted anew.
        progress: told of every layer.
    """
    fit = Fit((), Histograms(design.quality_layers), Histograms(design.quality_layers))
    layers: list[LayerTransform] = []
    learned: list[Matrix] = []  # z of the layers before as decoded, the last one first
    checked: list[Matrix] = []
    stage = f"fit, {design.history} layers of history"
    for index, weight in enumerate(weights):
        progress(stage, index, len(weights))
        x = training.layer(index)
        layer = None if reuse is None else reuse[index]
        mean = x.mean(axis=0, dtype=np.float64).astype(np.float32) if layer is None else layer.mean
        weigh = Weigh(mean, weight)
        z, z_measured = weigh.forward(x), weigh.forward(measured.layer(index))
        if layer is not None:
            predictor = layer.predictor
        else:
            predictor = _predictor(learned, z, checked, z_measured) if learned else None
        guess, guess_measured = predict(learned, predictor), predict(checked, predictor)
        if layer is None:
            layer = LayerTransform(mean, weight, basis(z - guess), predictor)
        decoded = _code(z, guess, layer, design, fit.training, TABLE_TOKENS)
        decoded_measured = _code(z_measured, guess_measured, layer, design, fit.measured, None)
        learned = [decoded, *learned][: design.history]
        checked = [decoded_measured, *checked][: design.history]
        layers.append(layer)
    progress(stage, len(weights), len(weights))
    return Fit(tuple(layers), fit.training, fit.measured)


def _code(
    z: Matrix, guess: Matrix | float, layer: LayerTransform, design: Design, histograms: Histograms, limit: int | None
) -> Matrix:
    """Count a layer's integers; return its z as the coarsest quality layer gives it."""
    rotate = Rotate(layer.basis)
    q = quantise(rotate.forward(z - guess), design.step)
    stride = 1 if limit is None else -(-len(q) // limit)
    histograms.add(q[::stride])
    return rotate.inverse(dequantise(q, design.step, design.quality_layers - 1)) + guess


def _predictor(history: list[Matrix], z: Matrix, checked: list[Matrix], z_measured: Matrix) -> Matrix | None:
    """Ridge regression; of several regularisations the one that predicts other texts best. None if nothing varies."""
    h = np.concatenate(history, axis=1)
    gram, cross = (h.T @ h).astype(np.float64), (h.T @ z).astype(np.float64)
    scale = float(np.trace(gram)) / len(gram)
    if scale <= 0:
        return None
    h_measured = np.concatenate(checked, axis=1)
    diagonal = np.eye(len(gram))
    candidates = [np.linalg.solve(gram + ridge * scale * diagonal, cross).astype(np.float32) for ridge in RIDGES]
    errors = [float(np.square(z_measured - h_measured @ candidate).sum(dtype=np.float64)) for candidate in candidates]
    return candidates[int(np.argmin(errors))]
