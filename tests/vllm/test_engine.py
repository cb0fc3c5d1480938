"""What the connector makes of vLLM's own configuration, and what it refuses."""

from typing import Any

import pytest
import torch
from vllm.engine.arg_utils import EngineArgs
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    KVCacheSpec,
    SlidingWindowSpec,
)

from kvquilt.integrations.vllm.engine import head_range, serving_engine
from kvquilt.integrations.vllm.options import parse_settings
from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_codec.types import DataType, LayerShape
from tests.vllm.engines import transfer_config

NAMES = [f"model.layers.{number}.self_attn.attn" for number in range(30)]


def config(model: str, **options: Any) -> Any:
    options = {"dtype": "bfloat16", "kv_transfer_config": transfer_config("127.0.0.1:1"), **options}
    return EngineArgs(model=model, **options).create_engine_config()


def full(heads: int = 3, dtype: torch.dtype = torch.bfloat16) -> FullAttentionSpec:
    return FullAttentionSpec(block_size=64, num_kv_heads=heads, head_size=64, dtype=dtype)


def caches(*specs: KVCacheSpec) -> KVCacheConfig:
    return KVCacheConfig(8, [], [KVCacheGroupSpec(NAMES, spec) for spec in specs])


def test_the_engine_is_described_as_the_router_describes_the_model(model: str) -> None:
    engine = serving_engine(config(model), caches(full()))
    assert engine.layout.data_type is DataType.BFLOAT16
    assert engine.layout.layers == (LayerShape(3, 64, 64),) * 30
    assert engine.kv_heads == (0, 3)
    assert engine.whole
    assert [engine.layer_number(name) for name in NAMES] == list(range(30))
    assert engine.blocks_of([7, 3, 9, 1], 64, 129) == [3, 9]
    assert engine.blocks_of([7, 3, 9, 1], 60, 64) == [7]
    with pytest.raises(UnsupportedModelError, match="layer number"):
        engine.layer_number("draft.layers.30.attn")


def test_a_rank_has_its_own_heads(model: str) -> None:
    """There are no ranks here: vLLM's configuration of one process is changed to that of each."""
    vllm_config = config(model)
    vllm_config.parallel_config.tensor_parallel_size = 3
    for rank in range(3):
        vllm_config.parallel_config.rank = rank
        engine = serving_engine(vllm_config, caches(full(heads=1)))
        assert engine.kv_heads == (rank, rank + 1)
        assert engine.layout.layers[0].kv_heads == 3
        assert not engine.whole


@pytest.mark.parametrize(("heads", "ranks"), [(8, 1), (8, 2), (8, 8), (2, 8), (1, 4)])
def test_heads_are_dealt_as_vllm_deals_them(heads: int, ranks: int) -> None:
    """`QKVParallelLinear`: each rank has max(1, heads / ranks) heads; with more ranks than heads, neighbours share."""
    each = max(1, heads // ranks)
    sharing = max(1, ranks // heads)
    for rank in range(ranks):
        first = rank // sharing * each
        assert head_range(heads, ranks, rank) == (first, first + each)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype"),
        ({"hf_overrides": {"rope_theta": 1.0}}, "hf_overrides"),
        ({"speculative_config": {"method": "ngram", "num_speculative_tokens": 2}}, "speculative_config"),
        ({"kv_transfer_config": {**transfer_config("127.0.0.1:1"), "kv_role": "kv_producer"}}, "kv_role"),
        (
            {"kv_transfer_config": {**transfer_config("127.0.0.1:1"), "kv_load_failure_policy": "fail"}},
            "kv_load_failure_policy",
        ),
    ],
    ids=str,
)
def test_settings_that_the_cache_does_not_go_with_are_refused(model: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        serving_engine(config(model, **options), caches(full()))


def test_other_kinds_of_caches_are_refused(model: str) -> None:
    vllm_config = config(model)
    window = SlidingWindowSpec(block_size=64, num_kv_heads=3, head_size=64, dtype=torch.bfloat16, sliding_window=512)
    for wrong, match in (
        (caches(full(), full()), "one group"),
        (caches(window), "SlidingWindowSpec"),
        (caches(full(heads=2)), "3 KV heads"),
        (caches(full(dtype=torch.float32)), "own type"),
    ):
        with pytest.raises(UnsupportedModelError, match=match):
            serving_engine(vllm_config, wrong)


def test_unknown_settings_are_named() -> None:
    with pytest.raises(BadRequestError, match="tarjet"):
        parse_settings({"tarjet": "127.0.0.1:1"})
    with pytest.raises(BadRequestError, match="model_fingerprint"):
        parse_settings({"model_fingerprint": "abc"})
