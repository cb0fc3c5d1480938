"""What a method does to the model: the next-token distributions after a context that went through it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import xxhash

from comparators.types import Context, cast, in_bfloat16
from kvquilt_codec.types import KVChunk
from kvquilt_router.calibration import Piece
from kvquilt_router.engine import LoadedModel
from kvquilt_router.engine.kv import LayerTensors


@dataclass(frozen=True, slots=True)
class Effect:
    """Of one continuation, or the mean of several of the same length.

    Attributes:
        kl: mean KL(full || method) of the next token, in nats.
        top1_agreement: share of positions where both rank the same token first.
        log_loss: mean negative log-likelihood of the continuation's tokens but the first, in nats.
    """

    kl: float
    top1_agreement: float
    log_loss: float

    @property
    def perplexity(self) -> float:
        """exp of the log loss."""
        return math.exp(self.log_loss)


def mean(effects: Sequence[Effect]) -> Effect:
    """Of continuations of the same length."""

    def of(read: Callable[[Effect], float]) -> float:
        return math.fsum(map(read, effects)) / len(effects)

    return Effect(of(lambda e: e.kl), of(lambda e: e.top1_agreement), of(lambda e: e.log_loss))


class Judge:
    """Compares with a full prefill in the model's own type, piece by piece.

    Args:
        model: computes; in float32, so that the reference is not itself rounded.
        piece: a context and its continuation.
    """

    def __init__(self, model: LoadedModel, piece: Piece) -> None:
        engine = model.engine
        self._engine, self._continuation = engine, piece.continuation
        layers = engine.prefill(piece.context)
        self.context = Context(
            in_bfloat16(engine.to_chunk(piece.context, layers, 0, unrotate=False)),
            in_bfloat16(engine.to_chunk(piece.context, layers, 0, unrotate=True)),
        )
        self._full = self._score(layers)
        self.full = self._compare(self._full)
        self._judged: dict[bytes, Effect] = {}

    def judge(self, chunk: KVChunk | None) -> Effect:
        """The effect of a context as it came back; None stands for a continuation without any context."""
        if chunk is None:
            nothing = self._engine.prefill(self._continuation[:1])
            empty = [LayerTensors(layer.keys[:, :, :0], layer.values[:, :, :0]) for layer in nothing]
            return self._compare(self._score(empty))
        same = _digest(chunk)
        if same not in self._judged:  # lossless methods all give the same back
            kv = self._engine.empty(chunk.tokens)
            kv.place(cast(chunk, self._engine.traits.layout.data_type), 0)
            self._engine.rotate_placed(kv)
            self._judged[same] = self._compare(self._score(kv.layers))
        return self._judged[same]

    @torch.inference_mode()
    def _score(self, layers: Sequence[LayerTensors]) -> torch.Tensor:
        return self._engine.score(self._continuation, layers)

    def _compare(self, scores: torch.Tensor) -> Effect:
        kl = (self._full.exp() * (self._full - scores)).sum(-1).mean(dtype=torch.float64)
        same = (self._full.argmax(-1) == scores.argmax(-1)).double().mean()
        tokens = torch.from_numpy(self._continuation[1:].astype("int64"))
        loss = -scores[:-1].gather(-1, tokens[:, None]).mean(dtype=torch.float64)
        return Effect(float(kl), float(same), float(loss))


def _digest(chunk: KVChunk) -> bytes:
    digest = xxhash.xxh3_128(repr((chunk.layout, chunk.rotated_from)).encode())
    for tensor in (*chunk.keys, *chunk.values):
        digest.update(tensor.tobytes())
    return digest.digest()
