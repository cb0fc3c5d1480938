"""The vocabulary of profiles: what calibration learns of a model, and what encoder and decoder need of it.

Per layer, with x the un-rotated keys and the values of a token side by side (`[tokens, channels]`, float32):

    z = weight * (x - mean)                      one weight per channel, from the model's sensitivity
    y = z @ basis
    q = round((y - history @ predictor) / step)  the only loss; history: y of the layers before, as their
                                                 coarsest quality layer gives it

`q` is stored in quality layers, the coarsest first: with n of them, layer 0 holds `q` divided by 3^(n-1) and rounded,
each further one the remainder -1, 0 or 1 of a division by 3 less (docs/codec.md).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import MAX_QUALITY_LAYERS, KVLayout
from kvquilt_kernels.entropy import FrequencyTables

MAX_HISTORY = 2
MAX_OUTLIER_RULES = 4
CONTEXTS = 5
"""Contexts of a refinement: the coarser value clipped to -2..2."""
REFINEMENT_SYMBOLS = 3

Matrix = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class LayerTransform:
    """The linear part of one layer; see the module.

    Attributes:
        mean: `[channels]`.
        weight: `[channels]`, above 0.
        basis: `[channels, channels]`, orthonormal columns.
        predictor: `[history channels, channels]`, or `None` for a layer that is coded by itself. The history is y of
            the layer before, then of the one before that.
    """

    mean: Matrix
    weight: Matrix
    basis: Matrix
    predictor: Matrix | None

    @property
    def channels(self) -> int:
        """Channels of the layer: `kv_heads * (key_dim + value_dim)`."""
        return len(self.mean)


@dataclass(frozen=True, slots=True, eq=False)
class QualityTables:
    """Frequencies of one quality layer.

    Attributes:
        tables: even alphabet with an escape in quality layer 0, `REFINEMENT_SYMBOLS` in the others.
        table_ids: per model layer `[1, channels]` in quality layer 0, `[CONTEXTS, channels]` in the others.
    """

    tables: FrequencyTables
    table_ids: tuple[NDArray[np.uint8], ...]


@dataclass(frozen=True, slots=True)
class OutlierRule:
    """Which tokens are stored exactly: those whose keys are far from the mean carry most of the model's sensitivity.

    Attributes:
        layer: model layer whose centred keys are measured (L2 norm over all heads).
        distance: only tokens beyond it.
        tokens_per_outlier: at most one for so many tokens of a chunk, rounded up; the farthest ones.
    """

    layer: int
    distance: float
    tokens_per_outlier: int


@dataclass(frozen=True, slots=True)
class LevelCard:
    """What calibration measured of a level, on texts that it did not learn from.

    Attributes:
        level: name, for instance "medium".
        quality_layers: how many quality layers it takes.
        bits_per_element: of stored containers, everything included.
        kl: mean KL(full || codec) of the next token over a continuation, in nats.
        top1_agreement: share of positions where both rank the same token first.
    """

    level: str
    quality_layers: int
    bits_per_element: float
    kl: float
    top1_agreement: float


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """A model's codec calibration.

    Attributes:
        model_fingerprint: hex digest of the model it was made from and is valid for.
        layers: one transform a model layer.
        step: width of a quantisation interval of the finest quality layer.
        quality: the coarsest first.
        outliers: which tokens are stored exactly: those that any rule picks.
        cards: what was measured, the coarsest level first.
        texts: what it was calibrated on, in words.

    Raises:
        BadRequestError: parts that do not fit together.
    """

    model_fingerprint: str
    layers: tuple[LayerTransform, ...]
    step: float
    quality: tuple[QualityTables, ...]
    outliers: tuple[OutlierRule, ...]
    cards: tuple[LevelCard, ...]
    texts: str

    def __post_init__(self) -> None:
        if not 1 <= len(self.quality) <= MAX_QUALITY_LAYERS:
            raise BadRequestError(f"expected 1..{MAX_QUALITY_LAYERS} quality layers; got {len(self.quality)}")
        if not (np.isfinite(self.step) and 1e-6 < self.step < 1e6):
            raise BadRequestError(f"expected a step in 1e-6..1e6; got {self.step}")
        for index, layer in enumerate(self.layers):
            self._check_layer(index, layer)
        for depth, quality in enumerate(self.quality):
            self._check_tables(depth, quality)
        if len(self.outliers) > MAX_OUTLIER_RULES:
            raise BadRequestError(f"expected at most {MAX_OUTLIER_RULES} outlier rules; got {len(self.outliers)}")
        for rule in self.outliers:
            if not (0 <= rule.layer < len(self.layers) and rule.distance >= 0 and rule.tokens_per_outlier >= 1):
                raise BadRequestError(f"expected an outlier rule of this model's layers; got {rule}")

    def _check_layer(self, index: int, layer: LayerTransform) -> None:
        channels = layer.channels
        if layer.weight.shape != (channels,) or layer.basis.shape != (channels, channels):
            raise BadRequestError(f"expected matrices of {channels} channels in layer {index} of a profile")
        if not all(np.isfinite(part).all() for part in (layer.mean, layer.weight, layer.basis)):
            raise BadRequestError(f"expected finite numbers in layer {index} of a profile")
        if not (layer.weight > 0).all():
            raise BadRequestError(f"expected weights above 0 in layer {index} of a profile")
        if layer.predictor is not None:
            reaches = [sum(self.layers[index - k].channels for k in range(1, n + 1)) for n in (1, 2) if n <= index]
            rows = layer.predictor.shape[0]
            if layer.predictor.shape[1:] != (channels,) or rows not in reaches:
                raise BadRequestError(f"expected a predictor from one or two layers in layer {index} of a profile")
            if not np.isfinite(layer.predictor).all():
                raise BadRequestError(f"expected finite numbers in layer {index} of a profile")

    def _check_tables(self, depth: int, quality: QualityTables) -> None:
        alphabet = quality.tables.alphabet
        if alphabet % 2 if depth == 0 else alphabet != REFINEMENT_SYMBOLS:
            raise BadRequestError(f"expected another alphabet than {alphabet} in quality layer {depth}")
        shapes = [(1 if depth == 0 else CONTEXTS, layer.channels) for layer in self.layers]
        if [ids.shape for ids in quality.table_ids] != shapes:
            raise BadRequestError(f"expected table ids of every channel in quality layer {depth}")
        if any(int(ids.max(initial=0)) >= quality.tables.count for ids in quality.table_ids):
            raise BadRequestError(f"expected table ids below {quality.tables.count} in quality layer {depth}")

    def check_layout(self, layout: KVLayout) -> None:
        """Refuse KV of other shapes.

        Raises:
            BadRequestError: number of layers or channels differ.
        """
        channels = [layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in layout.layers]
        if channels != [layer.channels for layer in self.layers]:
            raise BadRequestError("expected KV of the profile's shapes; got another model's")
