"""Where a token's keys and values lie in vLLM's paged KV cache, per attention backend.

vLLM 0.32 gives every layer's cache the logical shape `[blocks, kv_heads, block_size, 2 * head_dim]`, keys in the first
half of the last dimension. On GPUs that is also how elements are addressed, whatever the order in memory is (NHD, HND,
layers or blocks outermost): the strides say it. The CPU backend uses the same number of bytes in an order of its own,
which depends on the instruction set; there the backend's own operator writes, and what it writes shows how to read.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from kvquilt_codec.errors import UnsupportedModelError

STRIDED_BACKENDS = frozenset({"FLASH_ATTN", "FLASHINFER", "TRITON_ATTN", "FLEX_ATTENTION"})
CPU_BACKEND = "CPU_ATTN"

Write = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Writes keys and values `[tokens, kv_heads, head_dim]` into a CPU layer's key and value cache at slots."""


class PagedLayout(Protocol):
    """Puts KV into the paged cache of one layer, and copies it out.

    A slot is `block * block_size + offset`. Keys and values are `[kv_heads, tokens, head_dim]` of the cache's type.
    """

    def place(self, cache: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """Write the tokens' KV; nothing else of the cache changes."""
        ...

    def take(self, cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Copy the tokens' KV out: keys and values that share no memory with the cache."""
        ...


class StridedLayout:
    """FlashAttention, FlashInfer, Triton and FlexAttention: elements are where shape and strides say."""

    def place(self, cache: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """See `PagedLayout`."""
        key_cache, value_cache, at = self._addressed(cache, slots)
        key_cache[at] = keys.to(cache.device, non_blocking=True).transpose(0, 1)
        value_cache[at] = values.to(cache.device, non_blocking=True).transpose(0, 1)

    def take(self, cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PagedLayout`."""
        key_cache, value_cache, at = self._addressed(cache, slots)
        return key_cache[at].transpose(0, 1).contiguous(), value_cache[at].transpose(0, 1).contiguous()

    @staticmethod
    def _addressed(cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Keys and values as `[blocks, block_size, kv_heads, head_dim]`, and the index of the slots' tokens."""
        block_size = cache.shape[2]
        keys, values = cache.transpose(1, 2).chunk(2, dim=-1)
        slots = slots.to(cache.device)
        return keys, values, (slots // block_size, slots % block_size)


class CpuLayout:
    """vLLM's CPU backend.

    Args:
        write: the backend's own operator.
        block_size: tokens in a block.
        head_dim: elements of a key.
        data_type: of the cache.

    Raises:
        UnsupportedModelError: the operator does not write each element of a block once.
    """

    def __init__(self, write: Write, block_size: int, head_dim: int, data_type: torch.dtype) -> None:
        self._write = write
        self._block_size = block_size
        self._dim = head_dim
        self._transposed: list[bool] = []
        self._orders: list[torch.Tensor] = []
        for order in self._probe(data_type):
            plain = torch.arange(block_size * head_dim)
            self._transposed.append(bool((order == plain.view(block_size, head_dim).T.reshape(-1)).all()))
            self._orders.append(order.argsort())

    def place(self, cache: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, slots: torch.Tensor) -> None:
        """See `PagedLayout`."""
        key_cache, value_cache = _cpu_halves(cache)
        self._write(
            keys.transpose(0, 1).contiguous(), values.transpose(0, 1).contiguous(), key_cache, value_cache, slots
        )

    def take(self, cache: torch.Tensor, slots: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `PagedLayout`."""
        blocks, place = torch.unique(slots // self._block_size, return_inverse=True)
        offsets = place * self._block_size + slots % self._block_size
        keys, values = (self._tokens(half[blocks], part) for part, half in enumerate(_cpu_halves(cache)))
        return keys[:, offsets], values[:, offsets]

    def _tokens(self, half: torch.Tensor, part: int) -> torch.Tensor:
        """`[blocks, kv_heads, block_size, head_dim]` as the operator wrote it, to `[kv_heads, tokens, head_dim]`."""
        blocks, heads = half.shape[:2]
        if self._transposed[part]:
            tokens = half.reshape(blocks, heads, self._dim, self._block_size).transpose(2, 3)
        else:
            flat = half.reshape(blocks, heads, -1)[..., self._orders[part]]
            tokens = flat.view(blocks, heads, self._block_size, self._dim)
        return tokens.transpose(0, 1).reshape(heads, -1, self._dim)

    def _probe(self, data_type: torch.dtype) -> list[torch.Tensor]:
        """For keys and values: which element (token * head_dim + dim) the operator puts at each place of a block."""
        count = self._block_size * self._dim
        words = {2: torch.int16, 4: torch.int32}.get(data_type.itemsize)
        if words is None:
            raise UnsupportedModelError(f"expected a cache of 2 or 4 bytes an element; vLLM's is {data_type}")
        # Two passes, so that each number stays a small, finite pattern that bfloat16 keeps apart from all others.
        high, low = (self._written(part, words, data_type) for part in _digits(count))
        orders = [(a * 128 + b).long() for a, b in zip(high, low, strict=True)]
        for order in orders:
            if order.sort().values.tolist() != list(range(count)):
                raise UnsupportedModelError(
                    "expected vLLM's CPU backend to keep each element of a block once; it keeps something else"
                )
        return orders

    def _written(self, numbers: torch.Tensor, words: torch.dtype, data_type: torch.dtype) -> list[torch.Tensor]:
        tokens = (numbers + 0x100).to(words).view(data_type).view(self._block_size, 1, self._dim)
        cache = torch.zeros(2, 1, self._block_size, 2 * self._dim, dtype=data_type)
        # The second block, so that a backend that ignores the slots is found out.
        slots = torch.arange(self._block_size) + self._block_size
        self._write(tokens, tokens.clone(), *_cpu_halves(cache), slots)
        return [half[1, 0].contiguous().view(words).view(-1).long() - 0x100 for half in _cpu_halves(cache)]


def _cpu_halves(cache: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values of a CPU layer, each `[blocks, kv_heads, block_size, head_dim]` in name only."""
    blocks, heads, block_size, _ = cache.shape
    keys, values = cache.view(blocks, heads, 2 * block_size, -1).chunk(2, dim=2)
    return keys, values


def _digits(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.arange(count)
    return numbers // 128, numbers % 128


def check_cache(cache: torch.Tensor, kv_heads: int, head_dim: int, data_type: torch.dtype) -> None:
    """Whether a layer's registered cache is one that the layouts above know.

    Raises:
        UnsupportedModelError: another shape or type.
    """
    expected = (kv_heads, 2 * head_dim, data_type)
    got = (cache.shape[1], cache.shape[3], cache.dtype) if cache.dim() == 4 else tuple(cache.shape)
    if got != expected:
        raise UnsupportedModelError(
            f"expected a paged cache [blocks, {kv_heads}, block_size, {2 * head_dim}] of {data_type}; "
            f"vLLM's is {list(cache.shape)} of {cache.dtype}: kvquilt cannot serve this kind of cache"
        )


def choose_layout(backend: str, cache: torch.Tensor, write: Callable[[], Write]) -> PagedLayout:
    """The layout of an attention backend.

    Args:
        backend: its name in vLLM.
        cache: of one layer.
        write: gives the CPU backend's operator; called for that backend only.

    Raises:
        UnsupportedModelError: a backend that keeps its cache in another way.
    """
    if backend in STRIDED_BACKENDS:
        return StridedLayout()
    if backend == CPU_BACKEND:
        return CpuLayout(write(), cache.shape[2], cache.shape[3] // 2, cache.dtype)
    raise UnsupportedModelError(
        f"expected one of the attention backends {sorted(STRIDED_BACKENDS | {CPU_BACKEND})}; vLLM uses {backend}"
    )
