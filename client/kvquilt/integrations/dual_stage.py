"""HF Transformers: the decode stage of the policy `dual-stage` (KVShare, arXiv 2503.16525v2).

While `generate` runs over a filled cache, each step's attention chooses a few of the tokens whose KV is still reused,
and the model computes them again, in the cache, before the next step. What the question and earlier steps have computed
from the old KV stays. Needs `pip install kvquilt[model]`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.transformers import FilledCache
from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors, PromptKV
from kvquilt_router.engine.observe import Attention, observed
from kvquilt_router.policies.refreshing import TOKENS_PER_STEP, DecodeRefresher


class DecodeStage:
    """Recomputes reused tokens between the decode steps of one model. One generation at a time.

    Each step costs a forward pass of `tokens_per_step` tokens besides its own.

    Args:
        model: the worker's causal LM.

    Example:
        ```python
        stage = DecodeStage(model)
        filled = kvquilt.fill(segments, policy="dual-stage")
        with stage.refreshing(filled) as processors:
            output = model.generate(**filled, logits_processor=processors)
        ```
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._engine = Engine(model)

    @contextmanager
    def refreshing(
        self, filled: FilledCache, *, tokens_per_step: int = TOKENS_PER_STEP
    ) -> Iterator[LogitsProcessorList]:
        """What to give to `generate`, within the context and its thread; empty if the fill left no reused tokens.

        Raises:
            BadRequestError: fewer than one token per step, or deviations that cannot be.
        """
        report = filled.report
        if report is None or not report.reused_positions:
            yield LogitsProcessorList()
            return
        refresher = DecodeRefresher(report.reused_positions, report.reused_deviations, tokens_per_step=tokens_per_step)
        processor = RefreshingProcessor(self._engine, filled.past_key_values, refresher)
        with observed(self._model, processor.look):
            yield LogitsProcessorList([processor])


class RefreshingProcessor(LogitsProcessor):  # type: ignore[misc]  # transformers has no types
    """Leaves scores as they are; called after every step, it changes the cache in place.

    Args:
        engine: of the model that decodes.
        cache: that it decodes with.
        refresher: chooses.
    """

    def __init__(self, engine: Engine, cache: DynamicCache, refresher: DecodeRefresher) -> None:
        self._engine = engine
        self._cache = cache
        self._refresher = refresher
        self._attention: torch.Tensor | None = None
        self._computing = False

    def look(self, attention: Attention) -> None:
        """Add up what the step's last token pays to each token so far, over layers and heads."""
        if self._computing or self._refresher.waiting.size == 0:
            return
        last = torch.tensor([attention.query.shape[1] - 1], device=attention.query.device)
        (weights,) = attention.weights(last)
        paid = weights.sum((0, 1, 2))
        self._attention = paid if attention.layer == 0 or self._attention is None else self._attention + paid

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Compute this step's choice again, over the cache of `input_ids` `[1, tokens]`.

        Raises:
            BadRequestError: several sequences at once, or another cache than the filled one.
        """
        if input_ids.shape[0] != 1:
            raise BadRequestError(
                f"expected one sequence; got {input_ids.shape[0]}: generate without beams, one answer at a time"
            )
        if self._attention is None:
            return scores
        if self._cache.get_seq_length() != input_ids.shape[1]:
            raise BadRequestError(
                f"expected generate to fill the cache of {self._cache.get_seq_length()} tokens that was given; "
                f"it is at {input_ids.shape[1]}: pass past_key_values=filled.past_key_values"
            )
        chosen = self._refresher.next(self._attention.float().cpu().numpy())
        self._attention = None
        if chosen.size:
            layers = [LayerTensors(layer.keys, layer.values) for layer in self._cache.layers]
            kv = PromptKV.over(self._engine.traits.layout, layers)
            self._computing = True
            try:
                self._engine.recompute(input_ids[0].cpu().numpy().astype(np.uint32), kv, chosen, lambda *_: None)
            finally:
                self._computing = False
        return scores
