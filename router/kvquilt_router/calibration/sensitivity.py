"""How much the model's output depends on its KV, per layer and token: an estimate of the Fisher information.

The expected squared gradient of the log-likelihood of tokens that are drawn from the model itself (not those of the
text: J. Martens, "New insights and perspectives on the natural gradient method", arXiv:1412.1193, section 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.texts import Piece
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors

EXCLUDED_TOKENS = 0.02
"""Share of tokens, the most sensitive, that weights disregard: sinks (measured: 60-87 % of all) are stored exactly."""
_LOWEST = 1e-4
"""Bounds F / geometric mean from below, so that a tensor that nothing depends on still has a weight."""

Table = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Sensitivity:
    """Mean squared gradients.

    Attributes:
        texts: per text `[tokens, layers, 2]`, keys and values: mean over the tensor's channels. 0 where the token is
            outside of the layer's window.
    """

    texts: tuple[Table, ...]

    def of_tokens(self, text: int) -> Table:
        """`[tokens]`, all layers together."""
        totals: Table = self.texts[text].sum(axis=(1, 2))
        return totals

    def weights(self) -> Table:
        """Factors `[layers, 2]` of keys and values: `(F / gm)^(1/4)`, gm the geometric mean of F.

        F is the mean over the tokens that any gradient reaches; in a layer with a window those are few.
        """
        table = np.concatenate(self.texts)
        totals = table.sum(axis=(1, 2))
        kept = table[totals <= np.quantile(totals, 1 - EXCLUDED_TOKENS)]
        fisher = kept.sum(axis=0) / np.maximum((kept > 0).sum(axis=0), 1)
        if not (fisher > 0).any():
            return np.ones_like(fisher)
        mean = np.exp(np.log(fisher[fisher > 0]).mean())
        weights: Table = np.maximum(fisher / mean, _LOWEST) ** 0.25
        return weights


def measure_sensitivity(
    engine: Engine, pieces: Sequence[Piece], *, seed: int = 0, progress: Progress = silent
) -> Sensitivity:
    """Draw continuations of each piece's context, and differentiate their likelihood by the context's KV.

    A key's gradient has the same norm whether the key is rotated or not. Needs the activations of one continuation at
    a time, as training on it would.
    """
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for done, piece in enumerate(pieces):
        progress("sensitivity", done, len(pieces))
        texts.append(_squared_gradients(engine, piece, generator))
    progress("sensitivity", len(pieces), len(pieces))
    return Sensitivity(tuple(texts))


def _squared_gradients(engine: Engine, piece: Piece, generator: torch.Generator) -> Table:
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
    gradients = torch.autograd.grad(likelihood, tensors, allow_unused=True, materialize_grads=True)
    means = [gradient[0].float().square().mean((0, 2)) for gradient in gradients]
    table: Table = torch.stack(means, 1).reshape(len(piece.context), len(layers), 2).double().cpu().numpy()
    return table
