"""Where tokens lie in the paged caches of vLLM's attention backends."""

import pytest
import torch
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, _get_attn_isa
from vllm.v1.kv_cache_layout import KVCacheLayout

from kvquilt.integrations.vllm.caches import cpu_write
from kvquilt.integrations.vllm.layouts import CpuLayout, StridedLayout, check_cache, choose_layout
from kvquilt_codec.errors import UnsupportedModelError

HEADS, DIM, BLOCKS = 3, 64, 5
GPU_LAYOUTS = [KVCacheLayout.LBNHC, KVCacheLayout.LBHNC, KVCacheLayout.LHBNC, KVCacheLayout.BLHNC, KVCacheLayout.BLNHC]


def paged(layout: KVCacheLayout, block_size: int, dtype: torch.dtype, layers: int = 2) -> torch.Tensor:
    """The cache of layer 1 as vLLM makes its views: [blocks, heads, tokens, 2 * dim] over the layout's memory."""
    sizes = (layers, BLOCKS, HEADS, block_size, 2 * DIM)
    memory = torch.full([sizes[axis] for axis in layout.stride_order], -1.0, dtype=dtype)
    logical = memory.permute(*(layout.stride_order.index(axis) for axis in range(5)))
    return logical[1]


def tokens(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(count)
    keys, values = torch.randn(2, HEADS, count, DIM, generator=generator).to(dtype)
    return keys, values


def slots_of(count: int, block_size: int) -> torch.Tensor:
    """Slots of tokens from the middle of a block on, in blocks that are in no order."""
    positions = torch.arange(5, 5 + count)
    return torch.tensor([3, 1, 4])[positions // block_size] * block_size + positions % block_size


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("layout", GPU_LAYOUTS, ids=lambda layout: layout.name)
def test_gpu_backends_find_keys_and_values_where_vllm_reads_them(layout: KVCacheLayout, dtype: torch.dtype) -> None:
    block_size, count = 16, 37
    cache = paged(layout, block_size, dtype)
    keys, values = tokens(count, dtype)
    slots = slots_of(count, block_size)
    StridedLayout().place(cache, keys, values, slots)

    # As flash_attn.py, triton_attn.py, flex_attention.py and flashinfer.py of vLLM 0.32 take them apart.
    key_cache, value_cache = cache.transpose(1, 2).split(DIM, dim=-1)
    for index, slot in enumerate(slots.tolist()):
        assert torch.equal(key_cache[slot // block_size, slot % block_size], keys[:, index])
        assert torch.equal(value_cache[slot // block_size, slot % block_size], values[:, index])
    untouched = torch.ones(BLOCKS, block_size, dtype=torch.bool)
    untouched[slots // block_size, slots % block_size] = False
    assert (cache.transpose(1, 2)[untouched] == -1).all()
    taken = StridedLayout().take(cache, slots)
    assert torch.equal(taken[0], keys)
    assert torch.equal(taken[1], values)
    assert all(half.is_contiguous() for half in taken)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("block_size", [32, 64, 128])
def test_the_cpu_backend_reads_back_what_its_own_operator_wrote(block_size: int, dtype: torch.dtype) -> None:
    write = cpu_write(_get_attn_isa(dtype, block_size, DIM))
    layout = CpuLayout(write, block_size, DIM, dtype)
    cache = torch.full((BLOCKS, HEADS, block_size, 2 * DIM), -1.0, dtype=dtype)
    keys, values = tokens(2 * block_size + 11, dtype)
    slots = slots_of(keys.shape[1], block_size)
    layout.place(cache, keys, values, slots)

    taken = layout.take(cache, slots)
    assert torch.equal(taken[0], keys)
    assert torch.equal(taken[1], values)
    others = torch.tensor([0, 2])
    assert (cache[others] == -1).all()
    before = taken[0].clone()
    cache.zero_()
    assert torch.equal(taken[0], before)


def test_a_cpu_backend_that_packs_in_another_way_is_read_too() -> None:
    """Other instruction sets keep keys in tiles: here pairs of dimensions of a token side by side."""

    def write(keys, values, key_cache, value_cache, slots):  # type: ignore[no-untyped-def]
        for token, slot in enumerate(slots.tolist()):
            block, offset = divmod(slot, 32)
            tiles = key_cache[block].view(-1, DIM // 2, 32, 2)
            tiles[:, :, offset] = keys[token].view(-1, DIM // 2, 2)
            value_cache[block, :, offset] = values[token]

    layout = CpuLayout(write, 32, DIM, torch.bfloat16)
    cache = torch.zeros(BLOCKS, HEADS, 32, 2 * DIM, dtype=torch.bfloat16)
    keys, values = tokens(40, torch.bfloat16)
    slots = slots_of(40, 32)
    layout.place(cache, keys, values, slots)
    taken = layout.take(cache, slots)
    assert torch.equal(taken[0], keys)
    assert torch.equal(taken[1], values)


def test_a_cpu_backend_that_loses_elements_is_refused() -> None:
    def write(keys, values, key_cache, value_cache, slots):  # type: ignore[no-untyped-def]
        key_cache[1, 0, 0] = keys[0, 0]

    with pytest.raises(UnsupportedModelError, match="each element of a block once"):
        CpuLayout(write, 32, DIM, torch.bfloat16)


def test_other_shapes_types_and_backends_are_refused() -> None:
    cache = torch.zeros(BLOCKS, HEADS, 32, 2 * DIM, dtype=torch.bfloat16)
    check_cache(cache, HEADS, DIM, torch.bfloat16)
    for wrong in (
        cache.float(),
        cache[:, :2],
        cache[..., :DIM],
        cache.view(BLOCKS, -1),
        cache.view(torch.uint8),
    ):
        with pytest.raises(UnsupportedModelError, match="expected a paged cache"):
            check_cache(wrong, HEADS, DIM, torch.bfloat16)
    with pytest.raises(UnsupportedModelError, match="MLA"):
        choose_layout("MLA", cache, lambda: cpu_write("vec"))
    name = CPUAttentionBackend.get_name()
    assert isinstance(choose_layout(name, cache, lambda: cpu_write("vec")), CpuLayout)
    assert isinstance(choose_layout("FLASH_ATTN", cache, lambda: cpu_write("vec")), StridedLayout)
