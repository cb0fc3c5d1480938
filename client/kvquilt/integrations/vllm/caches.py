"""The paged caches that vLLM registers: which layer each belongs to, and how its backend lays tokens out."""

from collections.abc import Mapping
from typing import Any

import torch

from kvquilt.integrations.vllm.engine import ServingEngine
from kvquilt.integrations.vllm.layouts import PagedLayout, Write, check_cache, choose_layout
from kvquilt_codec.errors import UnsupportedModelError


def layout_of(
    vllm_config: Any, engine: ServingEngine, caches: Mapping[str, torch.Tensor]
) -> tuple[dict[int, torch.Tensor], PagedLayout]:
    """Caches by layer number, and their common layout.

    Raises:
        UnsupportedModelError: layers missing, a shape that does not fit, or a backend that is not known.
    """
    layers = {engine.layer_number(name): cache for name, cache in caches.items()}
    if sorted(layers) != list(engine.layers):
        raise UnsupportedModelError(f"expected a cache for each of the layers {engine.layers}; got {sorted(layers)}")
    first, last = engine.kv_heads
    shape = engine.layout.layers[0]
    for cache in caches.values():
        check_cache(cache, last - first, shape.key_dim, getattr(torch, engine.data_type))
        if engine.block_size % cache.shape[2]:
            raise UnsupportedModelError(
                f"expected blocks of {engine.block_size} tokens or parts of them; the cache has {cache.shape[2]}"
            )
    modules = vllm_config.compilation_config.static_forward_context
    backends = {modules[name].attn_backend.get_name() for name in caches}
    if len(backends) != 1:
        raise UnsupportedModelError(f"expected one attention backend for all layers; vLLM uses {sorted(backends)}")
    name, cache = next(iter(caches.items()))
    return layers, choose_layout(backends.pop(), cache, lambda: cpu_write(modules[name].isa))


def cpu_write(isa: str) -> Write:
    """vLLM's operator that writes into a CPU layer's cache, for an instruction set as its backend names them."""
    from vllm import _custom_ops

    def write(
        keys: torch.Tensor,
        values: torch.Tensor,
        key_cache: torch.Tensor,
        value_cache: torch.Tensor,
        slots: torch.Tensor,
    ) -> None:
        _custom_ops.cpu_attn_reshape_and_cache(keys, values, key_cache, value_cache, slots, isa)

    return write
