"""Parallel encoding: chunks that were each computed directly after the prefix, attended to side by side (APE).

APE (arXiv 2502.05431, section 4, ICLR 2025): a token's attention to the chunks is computed with a temperature T, and
the log-sum-exp of that part is multiplied by S * T before the part is merged with the rest (prefix, question, and what
was generated) by log-sum-exp. T = S = 1 is plain attention over the same keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.masks import chunk_positions, model_mask
from kvquilt_router.engine.observe import Attention
from kvquilt_router.engine.override import Attend, overridden
from kvquilt_router.engine.runner import ModelRunner, length


@dataclass(frozen=True, slots=True)
class ParallelAttention:
    """Attention that treats the keys from `begin` to `end` as chunks side by side.

    Attributes:
        begin: first key of the first chunk.
        end: after the last key of the last chunk.
        temperature: T, divides the scores of the chunks' keys.
        scale: S, multiplies the log-sum-exp of those scores, together with T.
    """

    begin: int
    end: int
    temperature: float
    scale: float

    def weights(self, scores: torch.Tensor, mask: torch.Tensor, sinks: torch.Tensor) -> torch.Tensor:
        """Weights `[..., n, tokens]` of `scores` of that shape; `sinks` `[..., n, 0 or 1]` count with the rest."""
        chunks = slice(self.begin, self.end)
        side = scores[..., chunks] / self.temperature + mask[..., chunks]
        rest = scores + mask
        rest[..., chunks] = torch.finfo(rest.dtype).min
        rest = torch.cat([rest, sinks], -1)
        side_sum, rest_sum = side.logsumexp(-1), rest.logsumexp(-1)
        shares = torch.stack([side_sum * self.scale * self.temperature, rest_sum], -1).softmax(-1)
        weights = rest.softmax(-1)[..., : scores.shape[-1]] * shares[..., 1:]
        weights[..., chunks] = side.softmax(-1) * shares[..., :1]
        return weights

    def __call__(
        self,
        _: Attend,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        mask: Any,
        kwargs: dict[str, Any],
    ) -> tuple[torch.Tensor, None]:
        """One layer's attention, `[1, n, heads, dim]`, computed in float32."""
        attention = Attention.of_call(module, query, key, mask, kwargs)
        parts = []
        for part in attention.blocks(torch.arange(query.shape[2], device=query.device)):
            weights = self.weights(attention.scores(part), attention.additive_mask(part), attention.sink_scores(part))
            parts.append((weights @ value[0].float().unsqueeze(1)).flatten(0, 1))  # [heads, part, dim]
        return torch.cat(parts, 1).transpose(0, 1)[None].to(query.dtype).contiguous(), None


def score_parallel(
    runner: ModelRunner,
    token_ids: TokenIds,
    prefix: Sequence[LayerTensors],
    chunks: Sequence[Sequence[LayerTensors]],
    temperature: float,
    scale: float,
) -> torch.Tensor:
    """See `Engine.score_parallel`."""
    if not (0 < temperature < float("inf") and 0 < scale < float("inf")):
        raise BadRequestError(f"expected temperature and scale above 0; got {temperature} and {scale}")
    if not chunks:
        raise BadRequestError("expected one chunk or more; got none: without chunks nothing is parallel, use `score`")
    lengths = [length(chunk) for chunk in chunks]
    begin, end = length(prefix), length(prefix) + sum(lengths)
    context = [_joined(layers) for layers in zip(*([prefix] if prefix else []), *chunks, strict=True)]
    first = begin + max(lengths)
    positions = torch.arange(first, first + len(token_ids), device=runner.device)
    before = torch.arange(begin, device=runner.device)
    keys = torch.cat([before, chunk_positions(begin, lengths, runner.device), positions])
    mask = model_mask(runner.model, runner.traits, keys[None] <= positions[:, None], positions, keys)
    with overridden(runner.model, ParallelAttention(begin, end, temperature, scale)):
        return runner.log_probabilities(token_ids, context, positions, mask)


def _joined(layers: Sequence[LayerTensors]) -> LayerTensors:
    return LayerTensors(torch.cat([one.keys for one in layers], 2), torch.cat([one.values for one in layers], 2))
