"""What the engine can do with a model. Not thread-safe: one call at a time (the router has one thread)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_codec.types import KVChunk, TokenIds
from kvquilt_router.engine import looks, parallel, placing, prefill
from kvquilt_router.engine.blocks import BlockStructure
from kvquilt_router.engine.greedy import decode_greedily
from kvquilt_router.engine.kv import LayerTensors, PromptKV
from kvquilt_router.engine.placing import Rotations
from kvquilt_router.engine.prefill import AttentionSums
from kvquilt_router.engine.recompute import recompute
from kvquilt_router.engine.runner import ModelRunner
from kvquilt_router.engine.scatter import BeforeLayer, OnLayer
from kvquilt_router.engine.traits import ModelTraits
from kvquilt_router.engine.view import PositionFreeView
from kvquilt_router.selection import LayerFilter
from kvquilt_router.types import Indices


class Engine:
    """Computes KV with a Transformers causal LM.

    Args:
        model: any decoder-only model with rotary positions, in evaluation mode, with sdpa or eager attention.

    Raises:
        UnsupportedModelError: its state cannot be cut into chunks, or its keys cannot be moved.
    """

    def __init__(self, model: Any) -> None:
        self._runner = ModelRunner(model)

    @property
    def traits(self) -> ModelTraits:
        """What the model is like."""
        return self._runner.traits

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self._runner.device

    @torch.inference_mode()
    def prefill(self, token_ids: TokenIds, prefix: Sequence[LayerTensors] = ()) -> list[LayerTensors]:
        """KV of `token_ids` computed after `prefix` (KV from position 0 on), keys rotated to their positions.

        Raises:
            BadRequestError: a token id beyond the vocabulary, or more tokens than the model's context.
        """
        return prefill.prefill(self._runner, token_ids, prefix)

    @torch.inference_mode()
    def prefill_observed(
        self, token_ids: TokenIds, prefix: Sequence[LayerTensors], spans: Sequence[tuple[int, int]]
    ) -> tuple[list[LayerTensors], AttentionSums]:
        """`prefill`, and the attention that each token gave to `spans` (begin and end) of the prefix and to the chunk.

        Attention is computed a second time, in blocks of queries, so that memory stays in proportion to the tokens.

        Raises:
            BadRequestError: as `prefill`; a span outside of the prefix.
        """
        return prefill.prefill_observed(self._runner, token_ids, prefix, spans)

    @torch.inference_mode()
    def prefill_packed(
        self, chunks: Sequence[TokenIds], prefix: Sequence[LayerTensors] = ()
    ) -> list[list[LayerTensors]]:
        """What `prefill` computes of each chunk, in one forward pass (Prepacking, arXiv 2404.09529).

        Every chunk is at the positions after the prefix and sees the prefix and itself only. `packing.pack` says which
        chunks to take together: attention is computed over all of them, and most of it is masked.

        Raises:
            BadRequestError: as `prefill`; no chunks, or an empty one.
        """
        return prefill.prefill_packed(self._runner, chunks, prefix)

    def score(self, token_ids: TokenIds, context: Sequence[LayerTensors]) -> torch.Tensor:
        """Log-probabilities `[tokens, vocabulary]` (float32) of what follows each of `token_ids`, read after `context`.

        Differentiable with respect to `context` (KV from position 0 on, keys rotated), which stays as it is.
        """
        return self._runner.log_probabilities(token_ids, context)

    def decode_greedily(self, token_id: int, context: Sequence[LayerTensors], count: int) -> torch.Tensor:
        """See `kvquilt_router.engine.greedy`."""
        return decode_greedily(self._runner.model, token_id, context, count)

    @torch.inference_mode()
    def score_parallel(
        self,
        token_ids: TokenIds,
        prefix: Sequence[LayerTensors],
        chunks: Sequence[Sequence[LayerTensors]],
        temperature: float,
        scale: float,
    ) -> torch.Tensor:
        """`score` after chunks side by side, each computed directly after `prefix` (APE, arXiv 2502.05431, section 4).

        The tokens' positions begin where the longest chunk ends. A worker would have to attend in the same way.

        Args:
            token_ids: read after the chunks.
            prefix: KV from position 0 on; may be empty.
            chunks: KV of each from the prefix's end on, as `prefill` and `prefill_packed` compute it.
            temperature: T, of the attention to the chunks; 1 changes nothing.
            scale: S, of the log-sum-exp of that attention (times T); 1 changes nothing where T is 1.

        Raises:
            BadRequestError: as `prefill`; no chunks; temperature or scale not above 0.
        """
        return parallel.score_parallel(self._runner, token_ids, prefix, chunks, temperature, scale)

    @torch.inference_mode()
    def to_chunk(self, token_ids: TokenIds, layers: Sequence[LayerTensors], begin: int, *, unrotate: bool) -> KVChunk:
        """A chunk of KV computed at `begin` onwards; keys un-rotated if asked, else marked as rotated from there."""
        return placing.to_chunk(self._runner, token_ids, layers, begin, unrotate=unrotate)

    def empty(self, tokens: int, first: int = 0) -> PromptKV:
        """Room for the KV of a prompt's first `tokens` tokens, or of those of them from `first` on."""
        return PromptKV(self.traits.layout, tokens, self.device, first)

    def rotate_placed(self, kv: PromptKV) -> None:
        """Rotate placed keys to their positions, in place; clear what was not placed.

        Computed in float32 and rounded once, whether a key is rotated from its un-rotated form or from another place.
        """
        rotations = self.rotations(kv)
        for index in range(len(kv.layers)):
            rotations.rotate(index)

    def rotations(self, kv: PromptKV) -> Rotations:
        """`rotate_placed` layer by layer, for chunks that are reserved in `kv` and written later."""
        return Rotations(self._runner, kv)

    def view(self, kv: PromptKV) -> PositionFreeView:
        """The same KV with keys free of position; keys of `kv` must be rotated to their positions."""
        return PositionFreeView(kv, self._runner.rotary, self.traits.rotates)

    @torch.inference_mode()
    def value_deviation(self, token_ids: TokenIds, kv: PromptKV, context: int, layer: int) -> NDArray[np.float32]:
        """Squared L2 distance between fresh and placed values of each of the `context` first tokens at `layer`.

        Writes the fresh KV of layers 0 to `layer` into `kv` (CacheBlend, section 4.3: it is computed in full for the
        choice, so it may as well be kept). The pass ends there: attention and MLP of `layer` itself are not computed.
        """
        return looks.value_deviation(self._runner, token_ids, kv, context, layer)

    @torch.inference_mode()
    def high_deviation(
        self, token_ids: TokenIds, kv: PromptKV, context: int, layer: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """L1 distance between fresh and placed values at `layer`, and the attention that each token receives there.

        Both `[context]` (KVShare, arXiv 2503.16525: the two factors of its dual-stage high deviation). The attention is
        the column's sum over all heads and all tokens of `kv` that see the token, itself included. One pass for both:
        as `value_deviation`, it leaves the fresh KV of layers 0 to `layer` in `kv`, and a second look would find no
        deviation.
        """
        return looks.high_deviation(self._runner, token_ids, kv, context, layer)

    @torch.inference_mode()
    def question_attention(
        self,
        token_ids: TokenIds,
        kv: PromptKV,
        context: int,
        weights: NDArray[np.float32] | None = None,
        before_layer: BeforeLayer | None = None,
    ) -> NDArray[np.float32]:
        """Attention that the tokens from `context` on pay to each of the `context` first ones, `[context]`.

        Summed over layers, heads and the later tokens, each term times `weights` `[layers, kv_heads, context]`, if any.
        One forward pass of the later tokens; writes their KV into `kv`, whose keys must be rotated to their positions.
        The later tokens are those that `kv` has room for, or if it has none, the one token after it.
        `before_layer` is called as in `recompute`.
        """
        return looks.question_attention(self._runner, token_ids, kv, context, weights, before_layer)

    @torch.inference_mode()
    def recompute(
        self,
        token_ids: TokenIds,
        kv: PromptKV,
        positions: Indices,
        on_layer: OnLayer,
        *,
        layer_filter: LayerFilter | None = None,
        context: int | None = None,
        missing: Sequence[int] | Indices = (),
        visible: BlockStructure | None = None,
        before_layer: BeforeLayer | None = None,
    ) -> None:
        """Compute the tokens at `positions` in one forward pass, every layer over the whole of `kv`, in place.

        Args:
            token_ids: the prompt, at least as long as `kv`.
            kv: keys rotated to their positions.
            positions: ascending; with none, the layers are finished as they are.
            on_layer: called for every layer in order, when its KV is complete.
            layer_filter: asked at every layer but the last which tokens before `context` are still computed after it;
                the stored KV of the others stays as it is in the layers above.
            context: number of tokens before the question; by default all of `kv`.
            missing: positions without stored KV, which no filter drops, nor sees.
            visible: takes away some of what tokens see; by default each sees all before it.
            before_layer: called for every layer in order, before it is read or written: stored KV may be put there.

        Raises:
            BadRequestError: positions, segments or a context that do not fit `kv`; a prompt beyond the model's context.
            UnsupportedModelError: a filter, and a model whose layers do not take what other models' do.
        """
        recompute(
            self._runner,
            token_ids,
            kv,
            positions,
            on_layer,
            layer_filter=layer_filter,
            context=kv.tokens if context is None else context,
            missing=np.asarray(missing, np.int64),
            visible=visible,
            before_layer=before_layer,
        )

    def check(self, token_ids: TokenIds, tokens: int) -> None:
        """Refuse what the model cannot take.

        Raises:
            BadRequestError: a token id beyond the vocabulary, or more `tokens` than the model's context.
        """
        self._runner.check(token_ids, tokens)
