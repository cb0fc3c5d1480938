"""What vLLM runs: its model's KV layout, and the part of it that one worker has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kvquilt_codec.errors import UnsupportedModelError
from kvquilt_codec.types import DataType, KVLayout, LayerShape


@dataclass(frozen=True, slots=True)
class ServingEngine:
    """The engine, as far as the cache must know it.

    Attributes:
        layout: shapes and element type of the whole model's KV.
        block_size: tokens in a block of the paged cache.
        kv_heads: half-open range of the heads that this rank has.
        layers: those that this rank has.
        folder: of the model.
        data_type: that it computes in.
    """

    layout: KVLayout
    block_size: int
    kv_heads: tuple[int, int]
    layers: range
    folder: Path
    data_type: str

    @property
    def whole(self) -> bool:
        """Whether this rank has the KV of all heads and layers: only then can it save."""
        return len(self.layers) == len(self.layout.layers) and self.kv_heads == (0, self.layout.layers[0].kv_heads)

    def layer_number(self, name: str) -> int:
        """The number of a layer by its name in vLLM, for instance "model.layers.7.self_attn.attn".

        Raises:
            UnsupportedModelError: not one of the model's layers.
        """
        numbers = [int(part) for part in name.split(".") if part.isdecimal()]
        if len(numbers) != 1 or numbers[0] not in self.layers:
            raise UnsupportedModelError(
                f"expected names with a layer number in {self.layers}; vLLM has a cache {name!r}"
            )
        return numbers[0]

    def blocks_of(self, blocks: list[int], begin: int, end: int) -> list[int]:
        """The blocks of a table in which the tokens `[begin, end)` are."""
        return blocks[begin // self.block_size : -(-end // self.block_size)]


def serving_engine(vllm_config: Any, kv_cache_config: Any) -> ServingEngine:
    """What runs here.

    Raises:
        UnsupportedModelError: KV that kvquilt cannot serve, or a setting that it does not go with.
    """
    model, parallel, cache = vllm_config.model_config, vllm_config.parallel_config, vllm_config.cache_config
    _check_settings(vllm_config)
    groups = kv_cache_config.kv_cache_groups
    if len(groups) != 1:
        raise UnsupportedModelError(
            f"expected a model with one group of KV caches; vLLM made {len(groups)} of this one (layers of several "
            "kinds): kvquilt cannot serve it"
        )
    spec = groups[0].kv_cache_spec
    if type(spec).__name__ != "FullAttentionSpec":
        raise UnsupportedModelError(f"expected full attention, which keeps all tokens; got {type(spec).__name__}")
    data_type = str(model.dtype).removeprefix("torch.")
    if cache.cache_dtype not in ("auto", data_type) or str(spec.dtype) != str(model.dtype):
        raise UnsupportedModelError(
            f"expected a KV cache of the model's own type {data_type}; got kv_cache_dtype={cache.cache_dtype}"
        )
    heads = int(model.get_total_num_kv_heads())
    ranks = int(parallel.tensor_parallel_size)
    rank = int(parallel.rank) % ranks
    first, last = head_range(heads, ranks, rank)
    if last - first != spec.num_kv_heads:
        raise UnsupportedModelError(f"expected {last - first} KV heads a rank; vLLM's cache has {spec.num_kv_heads}")
    shape = LayerShape(heads, int(spec.head_size), int(getattr(spec, "head_size_v", None) or spec.head_size))
    if shape.key_dim != shape.value_dim:
        raise UnsupportedModelError(f"expected keys and values of one size; got {shape.key_dim} and {shape.value_dim}")
    start, end = model.get_layers_start_end_indices(parallel)
    return ServingEngine(
        layout=KVLayout(DataType(data_type), (shape,) * int(model.get_total_num_hidden_layers())),
        block_size=int(spec.block_size),
        kv_heads=(first, last),
        layers=range(start, end),
        folder=Path(str(model.model)),
        data_type=data_type,
    )


def head_range(heads: int, ranks: int, rank: int) -> tuple[int, int]:
    """The KV heads of a tensor-parallel rank, as vLLM deals them: with more ranks than heads, several have the same."""
    if ranks <= heads:
        return rank * (heads // ranks), (rank + 1) * (heads // ranks)
    head = rank // (ranks // heads)
    return head, head + 1


def _check_settings(vllm_config: Any) -> None:
    model, parallel = vllm_config.model_config, vllm_config.parallel_config
    kv_transfer = vllm_config.kv_transfer_config
    for wrong, expected, got in (
        (
            kv_transfer.kv_load_failure_policy != "recompute",
            'kv_load_failure_policy "recompute", with which a load that fails is computed',
            kv_transfer.kv_load_failure_policy,
        ),
        (kv_transfer.kv_role != "kv_both", 'kv_role "kv_both"', kv_transfer.kv_role),
        (bool(model.quantization), "weights that are not quantised", f"quantization {model.quantization}"),
        (bool(model.hf_overrides), "the model as its folder says", "hf_overrides"),
        (model.is_encoder_decoder, "a decoder", "an encoder-decoder model"),
        (model.use_mla, "keys and values of each head", "multi-head latent attention"),
        (vllm_config.speculative_config is not None, "no speculative decoding", "a speculative_config"),
        (
            getattr(parallel, "decode_context_parallel_size", 1) * getattr(parallel, "prefill_context_parallel_size", 1)
            > 1,
            "no context parallelism",
            "context parallel ranks",
        ),
    ):
        if wrong:
            raise UnsupportedModelError(f"expected {expected}; vLLM runs with {got}")
