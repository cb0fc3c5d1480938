"""How far a model's output is from that of a full prefill, when its context went through a codec."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.profile.types import Matrix
from kvquilt_codec.types import KVChunk, KVLayout, TokenIds
from kvquilt_router.calibration.progress import Progress, silent
from kvquilt_router.calibration.texts import Piece
from kvquilt_router.engine import Engine, LoadedModel


@dataclass(frozen=True, slots=True)
class Measured:
    """Quality over all continuations.

    Attributes:
        kl: mean KL(full || codec) of the next token, in nats.
        top1_agreement: share of positions where both rank the same token first.
    """

    kl: float
    top1_agreement: float


class Quality:
    """Compares contexts with the reference.

    Holds the reference's log-probabilities: 4 bytes x vocabulary x tokens of all continuations (8 pieces of 256 tokens
    and a vocabulary of 128,000: 1 GB).

    Args:
        model: computes.
        pieces: whose contexts are given to `measure`.
        progress: told of every piece.
    """

    def __init__(self, model: LoadedModel, pieces: Sequence[Piece], progress: Progress = silent) -> None:
        self._engine: Engine = model.engine
        self._pieces = tuple(pieces)
        self._reference: list[torch.Tensor] = []
        for done, piece in enumerate(self._pieces):
            progress("reference", done, len(self._pieces))
            with torch.inference_mode():
                self._reference.append(self._engine.score(piece.continuation, self._engine.prefill(piece.context)))
        progress("reference", len(self._pieces), len(self._pieces))

    @torch.inference_mode()
    def measure(self, contexts: Iterable[Sequence[Matrix]]) -> Measured:
        """Score the continuations after contexts, one per piece in their order.

        Args:
            contexts: per piece, per layer x `[tokens, channels]`: un-rotated keys of all heads, then values. Rounded to
                the model's element type and rotated to positions from 0.

        Raises:
            BadRequestError: fewer or more contexts than pieces, or other shapes.
        """
        kl, same, tokens, measured = 0.0, 0, 0, 0
        for piece, reference, context in zip(self._pieces, self._reference, contexts, strict=False):
            kv = self._engine.empty(len(piece.context))
            kv.place(to_chunk(self._engine.traits.layout, piece.context, context), 0)
            self._engine.rotate_placed(kv)
            scores = self._engine.score(piece.continuation, kv.layers)
            kl += float((reference.exp() * (reference - scores)).sum(dtype=torch.float64))
            same += int((reference.argmax(-1) == scores.argmax(-1)).sum())
            tokens += len(scores)
            measured += 1
        if measured != len(self._pieces):
            raise BadRequestError(f"expected {len(self._pieces)} contexts, one a piece; got {measured}")
        return Measured(kl / tokens, same / tokens)


def to_chunk(layout: KVLayout, token_ids: TokenIds, layers: Sequence[Matrix]) -> KVChunk:
    """A chunk with un-rotated keys, of x per layer.

    Raises:
        BadRequestError: other shapes than the layout's.
    """
    keys, values = [], []
    for x, shape in zip(layers, layout.layers, strict=True):
        rounded = x.astype(layout.data_type.numpy)
        cut = shape.kv_heads * shape.key_dim
        keys.append(np.ascontiguousarray(rounded[:, :cut]).reshape(len(x), shape.kv_heads, -1))
        values.append(np.ascontiguousarray(rounded[:, cut:]).reshape(len(x), shape.kv_heads, -1))
    return KVChunk(layout, token_ids, tuple(keys), tuple(values))
