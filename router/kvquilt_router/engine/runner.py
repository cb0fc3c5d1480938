"""One forward pass of a model: over tokens that follow a cache, or over chosen tokens of a prompt."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import Cache, DynamicCache

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.engine.rotary import Angles, Rotary
from kvquilt_router.engine.scatter import ActiveTokens, BeforeLayer, OnLayer, scatter_cache
from kvquilt_router.engine.traits import ModelTraits, layer_kinds, measure_traits
from kvquilt_router.types import Indices


class Enough(Exception):  # noqa: N818  no error
    """Ends a forward pass whose further layers nobody needs."""


class ModelRunner:
    """A Transformers causal LM, and what is known of it.

    Args:
        model: any decoder-only model with rotary positions, in evaluation mode, with sdpa or eager attention.

    Raises:
        UnsupportedModelError: its state cannot be cut into chunks, or its keys cannot be moved.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.decoder = model.get_decoder()
        self.rotary = Rotary(self.decoder, layer_kinds(model.config.get_text_config()))
        self.traits: ModelTraits = measure_traits(model, self.rotary)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def append(
        self,
        token_ids: TokenIds,
        prefix: Sequence[LayerTensors],
        positions: torch.Tensor | None = None,
        mask: Any = None,
    ) -> DynamicCache:
        """Compute tokens that follow `prefix`: the cache of both. Without positions and mask, directly and causally."""
        cache = cache_of(prefix)
        self.decoder(**self._inputs(token_ids, prefix, positions, mask), past_key_values=cache, use_cache=True)
        return cache

    def log_probabilities(
        self,
        token_ids: TokenIds,
        prefix: Sequence[LayerTensors],
        positions: torch.Tensor | None = None,
        mask: Any = None,
    ) -> torch.Tensor:
        """Of what follows each of `token_ids` after `prefix`, `[tokens, vocabulary]` (float32)."""
        inputs = self._inputs(token_ids, prefix, positions, mask)
        logits = self.model(**inputs, past_key_values=cache_of(prefix), use_cache=True).logits
        scores: torch.Tensor = logits[0].float().log_softmax(-1)
        return scores

    def _inputs(
        self, token_ids: TokenIds, prefix: Sequence[LayerTensors], positions: torch.Tensor | None, mask: Any
    ) -> dict[str, Any]:
        begin = length(prefix)
        if positions is None:
            positions = torch.arange(begin, begin + len(token_ids), device=self.device)
        self.check(token_ids, int(positions.max()) + 1 if len(positions) else begin)
        return {"input_ids": self.tensor(token_ids)[None], "position_ids": positions[None], "attention_mask": mask}

    def scatter(
        self,
        token_ids: TokenIds,
        layers: Sequence[LayerTensors],
        active: ActiveTokens,
        on_layer: OnLayer,
        mask: Any,
        before_layer: BeforeLayer | None = None,
    ) -> None:
        """Compute the active tokens of a prompt, every layer over the whole of `layers`, in place."""
        slots = active.slots
        self.decoder(
            input_ids=self.tensor(token_ids)[slots][None],
            position_ids=slots[None],
            attention_mask=mask,
            past_key_values=scatter_cache(layers, active, on_layer, before_layer),
            use_cache=True,
        )

    def angles(self, begin: int, tokens: int) -> Angles:
        """Rotary angles of consecutive positions."""
        return self.rotary.angles(torch.arange(begin, begin + tokens, device=self.device))

    def tensor(self, token_ids: TokenIds) -> torch.Tensor:
        """Token ids as the model takes them."""
        return torch.from_numpy(token_ids.astype(np.int64)).to(self.device)

    def slots(self, positions: Indices, tokens: int) -> torch.Tensor:
        """Positions of a prompt as a tensor.

        Raises:
            BadRequestError: not ascending, or not within the `tokens` first ones.
        """
        if len(positions) and (positions[0] < 0 or positions[-1] >= tokens or bool((np.diff(positions) <= 0).any())):
            raise BadRequestError(
                f"expected ascending positions from 0 to {tokens - 1}, each once; "
                f"got {len(positions)} from {positions.min()} to {positions.max()}"
            )
        return torch.from_numpy(positions.astype(np.int64)).to(self.device)

    def check(self, token_ids: TokenIds, tokens: int) -> None:
        """Refuse what the model cannot take.

        Raises:
            BadRequestError: a token id beyond the vocabulary, or more `tokens` than the model's context.
        """
        vocabulary = self.model.get_input_embeddings().num_embeddings
        if len(token_ids) and int(token_ids.max()) >= vocabulary:
            raise BadRequestError(f"expected token ids below {vocabulary}; got {token_ids.max()}: other tokenizer?")
        if tokens > self.traits.max_context:
            raise BadRequestError(
                f"expected at most {self.traits.max_context} tokens, the model's context; got {tokens}",
                reason="prompt_too_long",
            )


def length(layers: Sequence[LayerTensors]) -> int:
    """Tokens of some KV; 0 without layers."""
    return int(layers[0].keys.shape[2]) if layers else 0


def cache_of(layers: Sequence[LayerTensors]) -> Cache:
    """A cache that holds these layers; what is appended to it leaves them as they are."""
    return DynamicCache([(layer.keys, layer.values) for layer in layers]) if layers else DynamicCache()
