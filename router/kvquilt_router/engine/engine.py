"""Precompute, merge, probe and selective recompute. Not thread-safe: one call at a time (the router has one thread)."""

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import KVChunk, TokenIds
from kvquilt_router.engine.greedy import decode_greedily
from kvquilt_router.engine.kv import LayerTensors, PromptKV, to_numpy
from kvquilt_router.engine.observe import Attention, observed
from kvquilt_router.engine.rotary import Angles, Rotary
from kvquilt_router.engine.scatter import OnLayer, scatter_cache, scatter_mask
from kvquilt_router.engine.traits import ModelTraits, layer_kinds, measure_traits
from kvquilt_router.types import Indices


class Engine:
    """Computes KV with a Transformers causal LM.

    Args:
        model: any decoder-only model with rotary positions, in evaluation mode, with sdpa or eager attention.

    Raises:
        UnsupportedModelError: its state cannot be cut into chunks, or its keys cannot be moved.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._decoder = model.get_decoder()
        self._rotary = Rotary(self._decoder, layer_kinds(model.config.get_text_config()))
        self.traits: ModelTraits = measure_traits(model, self._rotary)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self._model.device
        return device

    @torch.inference_mode()
    def prefill(self, token_ids: TokenIds, prefix: Sequence[LayerTensors] = ()) -> list[LayerTensors]:
        """KV of `token_ids` computed after `prefix` (KV from position 0 on), keys rotated to their positions.

        Raises:
            BadRequestError: a token id beyond the vocabulary, or more tokens than the model's context.
        """
        cache = DynamicCache([(layer.keys, layer.values) for layer in prefix]) if prefix else DynamicCache()
        begin = prefix[0].keys.shape[2] if prefix else 0
        self.check(token_ids, begin + len(token_ids))
        tokens = self._tensor(token_ids)
        positions = torch.arange(begin, begin + len(tokens), device=self.device)
        self._decoder(input_ids=tokens[None], position_ids=positions[None], past_key_values=cache, use_cache=True)
        return [LayerTensors(layer.keys[:, :, begin:], layer.values[:, :, begin:]) for layer in cache.layers]

    def score(self, token_ids: TokenIds, context: Sequence[LayerTensors]) -> torch.Tensor:
        """Log-probabilities `[tokens, vocabulary]` (float32) of what follows each of `token_ids`, read after `context`.

        Differentiable with respect to `context` (KV from position 0 on, keys rotated), which stays as it is.
        """
        cache = DynamicCache([(layer.keys, layer.values) for layer in context])
        begin = context[0].keys.shape[2]
        self.check(token_ids, begin + len(token_ids))
        positions = torch.arange(begin, begin + len(token_ids), device=self.device)
        output = self._model(
            input_ids=self._tensor(token_ids)[None],
            position_ids=positions[None],
            past_key_values=cache,
            use_cache=True,
        )
        scores: torch.Tensor = output.logits[0].float().log_softmax(-1)
        return scores

    def decode_greedily(self, token_id: int, context: Sequence[LayerTensors], count: int) -> torch.Tensor:
        """See `kvquilt_router.engine.greedy`."""
        return decode_greedily(self._model, token_id, context, count)

    @torch.inference_mode()
    def to_chunk(self, token_ids: TokenIds, layers: Sequence[LayerTensors], begin: int, *, unrotate: bool) -> KVChunk:
        """A chunk of KV computed at `begin` onwards; keys un-rotated if asked, else marked as rotated from there."""
        angles = self._angles(begin, len(token_ids))
        keys = [
            self._rotary.rotate(layer.keys, index, angles, inverse=True)
            if unrotate and self.traits.rotates[index]
            else layer.keys
            for index, layer in enumerate(layers)
        ]
        return KVChunk(
            self.traits.layout,
            token_ids,
            tuple(to_numpy(tensor) for tensor in keys),
            tuple(to_numpy(layer.values) for layer in layers),
            None if unrotate else begin,
        )

    def empty(self, tokens: int) -> PromptKV:
        """Room for the KV of a prompt's first `tokens` tokens."""
        return PromptKV(self.traits.layout, tokens, self.device)

    @torch.inference_mode()
    def rotate_placed(self, kv: PromptKV) -> None:
        """Rotate placed keys to their positions, in place; clear what was not placed.

        Computed in float32 and rounded once, whether a key is rotated from its un-rotated form or from another place.
        """
        kv.clear_unplaced()
        for begin, end, came_from in _merged(kv.to_rotate):
            there = self._angles(begin, end - begin)
            here = None if came_from is None else self._angles(came_from, end - begin)
            for index, layer in enumerate(kv.layers):
                if self.traits.rotates[index]:
                    part = layer.keys[:, :, begin:end]
                    keys = part.float()
                    if here is not None:
                        keys = self._rotary.rotate(keys, index, here, inverse=True)
                    part.copy_(self._rotary.rotate(keys, index, there))
        kv.to_rotate.clear()

    def _angles(self, begin: int, tokens: int) -> Angles:
        return self._rotary.angles(torch.arange(begin, begin + tokens, device=self.device))

    @torch.inference_mode()
    def value_deviation(self, token_ids: TokenIds, kv: PromptKV, context: int, layer: int) -> NDArray[np.float32]:
        """Squared L2 distance between fresh and placed values of each of the `context` first tokens at `layer`.

        Writes the fresh KV of layers 0 to `layer` into `kv` (CacheBlend, section 4.3: it is computed in full for the
        choice, so it may as well be kept). The pass ends there: attention and MLP of `layer` itself are not computed.
        """
        stored = kv.layers[layer].values[:, :, :context].float().clone()
        slots = torch.arange(context, device=self.device)
        layers = [
            LayerTensors(tensors.keys[:, :, :context], tensors.values[:, :, :context])
            for tensors in kv.layers[: layer + 1]
        ]

        def until(index: int, _: LayerTensors) -> None:
            if index == layer:
                raise _Enough

        with contextlib.suppress(_Enough):
            self._forward(token_ids, layers, slots, until)
        fresh = kv.layers[layer].values[:, :, :context].float()
        deviation: NDArray[np.float32] = (fresh - stored).square().sum((0, 1, 3)).cpu().numpy()
        return deviation

    @torch.inference_mode()
    def question_attention(
        self, token_ids: TokenIds, kv: PromptKV, context: int, weights: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Attention that the tokens from `context` on pay to each of the `context` first ones, `[context]`.

        Summed over layers, heads and the later tokens, each term times `weights` `[layers, kv_heads, context]`, if any.
        One forward pass of the later tokens; writes their KV into `kv`, whose keys must be rotated to their positions.
        """
        total = torch.zeros(context, device=self.device)
        rows = torch.arange(kv.tokens - context, device=self.device)
        factors = None if weights is None else torch.from_numpy(weights).to(self.device)

        def look(attention: Attention) -> None:
            for part in attention.weights(rows):
                per_head = part[..., :context].sum((1, 2))
                total.add_((per_head if factors is None else per_head * factors[attention.layer]).sum(0))

        with observed(self._model, look):
            self._forward(token_ids, kv.layers, rows + context, lambda *_: None)
        scores: NDArray[np.float32] = total.cpu().numpy()
        return scores

    @torch.inference_mode()
    def recompute(self, token_ids: TokenIds, kv: PromptKV, positions: Indices, on_layer: OnLayer) -> None:
        """Compute the tokens at `positions` in one forward pass, every layer over the whole of `kv`, in place.

        Args:
            token_ids: the prompt, at least as long as `kv`.
            kv: keys rotated to their positions.
            positions: ascending; with none, the layers are finished as they are.
            on_layer: called for every layer in order, when its KV is complete.
        """
        self.check(token_ids, len(token_ids))
        if len(positions) == 0:
            for index, layer in enumerate(kv.layers):
                on_layer(index, layer)
            return
        slots = torch.from_numpy(positions).to(self.device)
        self._forward(token_ids, kv.layers, slots, on_layer)

    def _forward(self, token_ids: TokenIds, layers: list[LayerTensors], slots: torch.Tensor, on_layer: OnLayer) -> None:
        tokens = layers[0].keys.shape[2]
        self._decoder(
            input_ids=self._tensor(token_ids)[slots][None],
            position_ids=slots[None],
            attention_mask=scatter_mask(self._model, self.traits, slots, tokens),
            past_key_values=scatter_cache(layers, slots, on_layer),
            use_cache=True,
        )

    def _tensor(self, token_ids: TokenIds) -> torch.Tensor:
        return torch.from_numpy(token_ids.astype(np.int64)).to(self.device)

    def check(self, token_ids: TokenIds, tokens: int) -> None:
        """Refuse what the model cannot take.

        Raises:
            BadRequestError: a token id beyond the vocabulary, or more `tokens` than the model's context.
        """
        vocabulary = self._model.get_input_embeddings().num_embeddings
        if len(token_ids) and int(token_ids.max()) >= vocabulary:
            raise BadRequestError(f"expected token ids below {vocabulary}; got {token_ids.max()}: other tokenizer?")
        if tokens > self.traits.max_context:
            raise BadRequestError(
                f"expected at most {self.traits.max_context} tokens, the model's context; got {tokens}",
                reason="prompt_too_long",
            )


class _Enough(Exception):  # noqa: N818  no error
    """Ends a forward pass whose further layers nobody needs."""


def _merged(spans: Sequence[tuple[int, int, int | None]]) -> list[tuple[int, int, int | None]]:
    """Adjacent un-rotated spans made one: fewer and larger operations."""
    merged: list[tuple[int, int, int | None]] = []
    for begin, end, came_from in sorted(spans, key=lambda span: span[0]):
        if merged and came_from is None and merged[-1][1:] == (begin, None):
            merged[-1] = (merged[-1][0], end, None)
        else:
            merged.append((begin, end, came_from))
    return merged
