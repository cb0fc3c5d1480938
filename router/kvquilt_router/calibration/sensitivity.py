"""How much the model's output depends on its KV, per layer and token: an estimate of the Fisher information.

The expected squared gradient of the log-likelihood of tokens that are drawn from the model itself (not those of the
text: J. Martens, "New insights and perspectives on the natural gradient method", arXiv:1412.1193, section 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.joint.coder import joined
from kvquilt_codec.profile.types import Matrix
from kvquilt_codec.types import KVLayout
from kvquilt_router.calibration.gather import key_channels
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.texts import Piece
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors

EXCLUDED_TOKENS = 0.02
"""Share of tokens, the most sensitive, that weights disregard: sinks (measured: 60-87 % of all) are stored exactly."""
_SHARED = 0.03
"""What every channel has at least, relative to the mean of its tensor: few samples say little of each."""
_LOWEST = 1e-3
"""Bounds F / geometric mean from below, so that a tensor that nothing depends on still has a weight."""

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Squared gradients.

    Attributes:
        layout: the model's.
        texts: per text `[tokens, layers]`: sum over the channels of a layer. 0 where the token is outside of the
            layer's window.
        fisher: per layer `[channels]`: mean over the tokens that any gradient reaches, the most sensitive left out.
    """

    layout: KVLayout
    texts: tuple[Table, ...]
    fisher: tuple[Table, ...]

    def of_tokens(self, text: int) -> Table:
        """`[tokens]`, all layers together."""
        totals: Table = self.texts[text].sum(axis=1)
        return totals

    def weights(self) -> tuple[Matrix, ...]:
        """Per layer `[channels]`: `(F / gm)^(1/2)`, gm the geometric mean of all tensors' mean F.

        To second order, KL is the squared error weighed by F; with these weights a unit of error costs the same in
        every channel. Measured on SmolLM2, at equal KL: one exponent of 1/4 for all channels of a tensor costs 0.4 to
        0.5 bits an element more than this, 1/2 for all channels 0.2 more.
        """
        shared = [self._shared(layer, fisher) for layer, fisher in enumerate(self.fisher)]
        means = np.array([mean for part in shared for mean in (part[0], part[-1])])
        if not (means > 0).any():
            return tuple(np.ones(len(fisher), np.float32) for fisher in self.fisher)
        mean = np.exp(np.log(means[means > 0]).mean())
        return tuple(
            np.sqrt(np.maximum((fisher + _SHARED * part) / mean, _LOWEST)).astype(np.float32)
            for fisher, part in zip(self.fisher, shared, strict=True)
        )

    def _shared(self, layer: int, fisher: Table) -> Table:
        """`[channels]`: the mean of keys for each of theirs, that of values for each of theirs."""
        keys = key_channels(self.layout, layer)
        return np.repeat([fisher[:keys].mean(), fisher[keys:].mean()], [keys, len(fisher) - keys])


def measure_sensitivity(
    engine: Engine, pieces: Sequence[Piece], *, seed: int = 0, progress: Progress = silent
) -> Sensitivity:
    """Draw continuations of each piece's context, and differentiate their likelihood by the context's KV.

    Needs the activations of one continuation at
    a time, as training on it would.
    """
    generator = torch.Generator().manual_seed(seed)
    layout = engine.traits.layout
    texts: list[Table] = []
    sums = [np.zeros(shape.kv_heads * (shape.key_dim + shape.value_dim)) for shape in layout.layers]
    reached = np.zeros(len(sums))
    for done, piece in enumerate(pieces):
        progress("sensitivity", done, len(pieces))
        gradients = _gradients(engine, piece, generator)
        table = np.stack([np.square(layer, dtype=np.float64).sum(axis=1) for layer in gradients], axis=1)
        totals = table.sum(axis=1)
        kept = totals <= np.quantile(totals, 1 - EXCLUDED_TOKENS)
        for index, layer in enumerate(gradients):
            sums[index] += np.square(layer[kept], dtype=np.float64).sum(axis=0)
        reached += (table[kept] > 0).sum(axis=0)
        texts.append(table)
    progress("sensitivity", len(pieces), len(pieces))
    means = tuple(total / max(count, 1) for total, count in zip(sums, reached, strict=True))
    return Sensitivity(layout, tuple(texts), means)


def _gradients(engine: Engine, piece: Piece, generator: torch.Generator) -> list[Matrix]:
    """Per layer the gradients of un-rotated keys and of values side by side, `[tokens, channels]`."""
    # Cloned: what inference mode computed takes no part in differentiation.
    tensors = [
        tensor.clone().requires_grad_(True)
        for layer in engine.prefill(piece.context)
        for tensor in (layer.keys, layer.values)
    ]
    layers = [LayerTensors(*tensors[index : index + 2]) for index in range(0, len(tensors), 2)]
    scores = engine.score(piece.continuation, layers)
    drawn = torch.multinomial(scores.detach().exp().cpu(), 1, generator=generator).to(scores.device)
    likelihood = scores.gather(-1, drawn).sum()
    found = torch.autograd.grad(likelihood, tensors, allow_unused=True, materialize_grads=True)
    gradients = [LayerTensors(*found[index : index + 2]) for index in range(0, len(found), 2)]
    # Rotations are orthogonal: what turns a key back turns its gradient back.
    chunk = engine.to_chunk(piece.context, gradients, 0, unrotate=True)
    return [joined(keys, values) for keys, values in zip(chunk.keys, chunk.values, strict=True)]
