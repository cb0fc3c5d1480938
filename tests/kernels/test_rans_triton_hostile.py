"""Batches with hostile blocks in Triton: each is named, with the reference's reason, and nothing beyond is touched."""

import ctypes
import mmap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kvquilt_kernels.types import Bytes
from tests.kernels.blocks import REFERENCE, random_tables
from tests.kernels.streams import Streams, check_symbols, decoder, needs_triton, streams

pytestmark = needs_triton

PROT_NONE = 0


def with_words(block: Bytes, count: int) -> Bytes:
    """The block, cut or continued by zeros to another number of words."""
    (words,) = block[12:16].view("<u4")
    changed = np.zeros(block.size + 2 * (count - int(words)), np.uint8)
    kept = min(block.size, changed.size)
    changed[:kept] = block[:kept]
    changed[12:16] = np.array([count], "<u4").view(np.uint8)
    return changed


def refused(batch: Streams) -> dict[int, str]:
    """What the reference says of the blocks that it refuses."""
    faults = {}
    for stream in range(len(batch.blocks)):
        try:
            batch.decoded(stream)
        except ValueError as error:
            faults[stream] = str(error)
    return faults


def test_of_a_batch_the_blocks_that_the_reference_refuses_are_named_with_its_reasons() -> None:
    batch = streams(4, 33, 16, count=1)
    sound = batch.blocks[0]
    rng = np.random.default_rng(3)
    blocks = [sound, with_words(sound, 1), sound, with_words(sound, 90)]
    for _ in range(30):
        damaged = sound.copy()
        damaged[rng.integers(18, sound.size)] ^= 1 << rng.integers(8)
        blocks.append(damaged)
    hostile = replace(batch, blocks=blocks, table_ids=np.repeat(batch.table_ids, len(blocks), axis=0))
    expected = refused(hostile)
    assert {1, 3} <= expected.keys() <= set(range(len(blocks))) - {0, 2}
    with pytest.raises(ValueError, match=f"{len(expected)} blocks of the batch") as caught:
        hostile.symbols(decoder())
    assert caught.value.faults == expected  # type: ignore[attr-defined]
    kept = [block for number, block in enumerate(blocks) if number not in expected]
    check_symbols(replace(batch, blocks=kept, table_ids=np.repeat(batch.table_ids, len(kept), axis=0)))


def test_blocks_that_are_none_and_lists_of_escapes_that_are_not_the_blocks_are_named() -> None:
    rng = np.random.default_rng(0)
    tables, ids = random_tables(rng, 5, 4), np.zeros((3, 1, 40), np.uint8)
    values = (rng.standard_normal((3, 4, 40)) * 2).astype(np.float32)
    coded = [REFERENCE.quantise_encode(own, 1.0, tables, ids[0]) for own in values]
    blocks, escapes = [block for block, _ in coded], [listed for _, listed in coded]

    def faults(given: Sequence[Bytes], listed: Sequence[NDArray[np.int32]]) -> dict[int, str]:
        with pytest.raises(ValueError, match="of the batch") as caught:
            decoder().quantised(given, listed, 4, 40, tables, torch.from_numpy(ids))
        found: dict[int, str] = caught.value.faults  # type: ignore[attr-defined]
        return found

    assert "header" in faults([blocks[0], blocks[1][:-1], np.roll(blocks[2], 1)], escapes)[2]
    assert faults(blocks, [escapes[0], escapes[1][:-1], escapes[2]]).keys() == {1}
    moved = faults(blocks, [escapes[0][:-1], np.append(escapes[0][-1:], escapes[1]), escapes[2]])
    assert moved.keys() == {0, 1}, "an escape too many does not make up for one that is missing"
    assert faults(blocks, [escapes[0], escapes[1], np.where(escapes[2] > 0, 1, escapes[2])]).keys() == {2}


def test_table_ids_and_contexts_without_a_table_are_refused() -> None:
    batch = streams(3, 33, 16, contexts=5)
    assert batch.contexts is not None
    for name, array in (("table_ids", batch.table_ids), ("contexts", batch.contexts)):
        wrong = array.copy()
        wrong[1, :, 32] = 5
        with pytest.raises(ValueError, match="expected contexts below 5 and table ids below 5") as caught:
            replace(batch, **{name: wrong}).symbols(decoder())
        assert caught.value.faults.keys() == {1}  # type: ignore[attr-defined]


def at_the_end_of_memory(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor right before a page that kills the process when it is touched."""
    size = int(np.prod(shape)) * dtype.itemsize
    readable = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, readable + mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + readable), mmap.PAGESIZE, PROT_NONE) == 0
    return torch.frombuffer(memory, dtype=dtype, count=int(np.prod(shape)), offset=readable - size).view(shape)


@pytest.mark.skipif(torch.cuda.is_available(), reason="memory of the host")
def test_nothing_is_touched_beyond_an_array_whatever_the_blocks_are() -> None:
    from kvquilt_kernels.rans_triton_batch import BatchDecoder

    class Guarded(BatchDecoder):
        """Every array that a kernel is given ends where memory does."""

        def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
            return at_the_end_of_memory(shape, dtype)

        def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
            given = torch.from_numpy(array)
            return at_the_end_of_memory(tuple(given.shape), given.dtype).copy_(given)

        def _indices(self, name: str, given: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
            checked = super()._indices(name, given, shape)
            return at_the_end_of_memory(shape, checked.dtype).copy_(checked)

    guarded = Guarded()
    batch = streams(4, 33, 16, contexts=5, kind="uniform", count=4)
    assert np.array_equal(batch.symbols(guarded)[3], batch.decoded(3))
    rng = np.random.default_rng(1)
    assert batch.contexts is not None
    starved = [with_words(block, count) for block, count in zip(batch.blocks, (30, 0, 1, 0), strict=True)]
    for block in starved:
        block[16:144] = rng.integers(1, 256, 128)
    any_byte = rng.integers(0, 256, (*batch.table_ids.shape,), dtype=np.uint8)
    any_context = rng.integers(0, 256, batch.contexts.shape, dtype=np.uint8)
    for ids in (batch.table_ids, any_byte):
        for contexts in (batch.contexts, any_context):
            hostile = replace(batch, blocks=starved, table_ids=ids, contexts=contexts)
            with pytest.raises(ValueError, match="4 blocks of the batch are refused"):
                hostile.symbols(guarded)
    none = [np.zeros(0, np.int32)] * 4
    escaping = streams(4, 33, 16, kind="uniform", count=4)
    for ids in (escaping.table_ids, any_byte[:, :1].copy()):
        with pytest.raises(ValueError, match="4 blocks of the batch are refused"):
            guarded.quantised(escaping.blocks, none, 4, 33, escaping.tables, torch.from_numpy(ids))
