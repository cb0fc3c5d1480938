"""A batch of blocks in NumPy: what a device decodes them from, and why blocks of a batch are refused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes, FrequencyTables
from kvquilt_kernels.rans_block import BITS, check_escapes, parse_block, starts, symbols_of_slots

Element = TypeVar("Element", bound=np.generic)


class StreamError(ValueError):
    """Blocks of a batch are refused.

    Attributes:
        faults: why, by the number of the block in the batch.
    """

    def __init__(self, faults: dict[int, str]) -> None:
        first = min(faults)
        super().__init__(f"{len(faults)} blocks of the batch are refused; block {first}: {faults[first]}")
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Streams:
    """States and words of blocks.

    Attributes:
        states: `[streams, lanes]`, each at least 2^16.
        words: those of all streams, and one more: an array of none has no address.
        word_offsets: `[streams + 1]`, where in `words` a stream's begin; the last is the end.
    """

    states: NDArray[np.uint32]
    words: NDArray[np.uint16]
    word_offsets: NDArray[np.int64]


def parse_blocks(blocks: Sequence[Bytes], tokens: int, channels: int, alphabet: int, lanes: int) -> Streams:
    """Streams of blocks that are what the caller expects; StreamError for others."""
    parsed, faults = [], {}
    for number, block in enumerate(blocks):
        try:
            parsed.append(parse_block(block, tokens, channels, alphabet, lanes))
        except ValueError as error:
            faults[number] = str(error)
    if faults:
        raise StreamError(faults)
    words, offsets = _joined([words for _, words in parsed], np.uint16)
    return Streams(np.stack([states for states, _ in parsed]), words, offsets)


def join_escapes(
    escapes: Sequence[NDArray[np.int32]], streams: int, largest: int
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The lists of all streams, and one zero more; and where a stream's begin, the last one the end.

    Raises:
        StreamError: lists with an integer of at most `largest`, or beyond 2^30.
        ValueError: not one list a stream.
    """
    if len(escapes) != streams:
        raise ValueError(f"expected one list of escapes a block; got {len(escapes)} for {streams}")
    faults = {}
    for number, listed in enumerate(escapes):
        try:
            check_escapes(listed, largest)
        except ValueError as error:
            faults[number] = str(error)
    if faults:
        raise StreamError(faults)
    return _joined(escapes, np.int32)


def slot_entries(tables: FrequencyTables) -> NDArray[np.uint32]:
    """Of every slot `symbol << 22 | (f - 1) << 11 | (slot - c)`, `[tables, 2048]`."""
    symbols = symbols_of_slots(tables)
    index = symbols.astype(np.intp)
    entries = symbols.astype(np.int64) << (2 * BITS)
    entries |= (np.take_along_axis(tables.frequencies, index, axis=1).astype(np.int64) - 1) << BITS
    entries |= np.arange(1 << BITS) - np.take_along_axis(starts(tables), index, axis=1).astype(np.int64)
    return entries.astype(np.uint32)


def _joined(parts: Sequence[NDArray[Element]], dtype: type[Element]) -> tuple[NDArray[Element], NDArray[np.int64]]:
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return np.concatenate([*parts, np.zeros(1, dtype)]), offsets
