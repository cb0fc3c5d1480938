"""One layer on its way from tensors to the integers of the quality layers, and back (docs/codec.md)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

import kvquilt_kernels
from kvquilt_codec.joint.integers import LARGEST, Integers, nested
from kvquilt_codec.profile.types import MAX_HISTORY, LayerTransform
from kvquilt_codec.transform.stages import Linear, Tensor, Weigh, predict, restore
from kvquilt_kernels.types import Kernels

History = list[Tensor]
"""y of the layers before in one token block, the last one first, as their coarsest quality layer gives it.

So every level is decoded from the same history (docs/codec.md has what a finer one would save, and what it would cost).
"""


@dataclass(frozen=True, slots=True, eq=False)
class Design:
    """What all layers of a profile share.

    Attributes:
        step: width of a quantisation interval of the finest quality layer.
        quality_layers: how many.
    """

    step: float
    quality_layers: int

    def step_of(self, depth: int) -> np.float32:
        """Width of a quantisation interval when the first `depth` quality layers are used."""
        return np.float32(self.step * 3 ** (self.quality_layers - depth))


@dataclass(frozen=True, slots=True, eq=False)
class Quantised:
    """A layer's integers `[tokens, channels]`.

    Attributes:
        nested: per quality layer, the coarsest first.
        predicted: y as the layers before foretell it; 0 if they do not.
    """

    nested: list[Integers]
    predicted: Tensor | float


class Layer:
    """A layer's transform, made ready: matrices when they are first used, as an encoder needs fewer than a decoder.

    Args:
        transform: as a profile has it.
        design: what all layers share.
        kernels: backend; by default the fastest.
    """

    def __init__(self, transform: LayerTransform, design: Design, kernels: Kernels | None = None) -> None:
        self.transform = transform
        self.weigh = Weigh(transform.mean, transform.weight)
        self._design = design
        self._kernels = kernels or kvquilt_kernels.default()

    def forward(self, x: Tensor) -> Tensor:
        """y of x, both `[tokens, channels]`; in float32, as what is lost here no decoder gets back (measured)."""
        y: Tensor = self.weigh(x) @ self.transform.basis
        return y

    def inverse(self, y: Tensor) -> Tensor:
        """x of y."""
        return self._restore(y)

    def predict(self, history: History) -> Tensor | float:
        """y as the layers before foretell it; 0 for a layer that is coded by itself.

        Encoder and decoder round alike, so that they differ by the order of sums in float32 at most.
        """
        return 0.0 if self._predictor is None else predict(history, self._predictor)

    def quantise(self, y: Tensor, history: History, exact: NDArray[np.bool_] | None = None) -> Quantised:
        """Integers of y; the layer is then part of the history.

        Args:
            y: `[tokens, channels]`.
            history: the layers before.
            exact: `[tokens]`, which tokens are stored elsewhere: they take zeros.
        """
        predicted = self.predict(history)
        scaled = np.rint((y - predicted) * np.float32(1 / self._design.step))
        fine = scaled.clip(-LARGEST, LARGEST).astype(np.int32)
        if exact is not None:
            fine[exact] = 0
        known = nested(fine, self._design.quality_layers)
        self.enter(history, predicted, known[0])
        return Quantised(known, predicted)

    def enter(self, history: History, predicted: Tensor | float, coarsest: Integers) -> None:
        """Make the layer, by the integers of its coarsest quality layer, part of the history."""
        history.insert(0, self.dequantise(predicted, [coarsest]))
        del history[MAX_HISTORY:]

    def dequantise(self, predicted: Tensor | float, known: Sequence[Integers]) -> Tensor:
        """y from the integers of the first quality layers."""
        y: Tensor = np.multiply(known[-1], self._design.step_of(len(known)), dtype=np.float32)
        y += predicted
        return y

    @cached_property
    def _restore(self) -> Linear:
        return restore(self._kernels, self.transform.basis, self.transform.mean, self.transform.weight)

    @cached_property
    def _predictor(self) -> Linear | None:
        predictor = self.transform.predictor
        return None if predictor is None else Linear(self._kernels, predictor)


def make_layers(
    transforms: Sequence[LayerTransform], design: Design, kernels: Kernels | None = None
) -> tuple[Layer, ...]:
    """All layers of a model."""
    return tuple(Layer(transform, design, kernels) for transform in transforms)
