"""Many blocks at once on a GPU: what goes to the device, the launches, and what comes back."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_kernels.entropy import Bytes, FrequencyTables, RealType, check_size, lanes_for
from kvquilt_kernels.rans_block import (
    OTHER_END,
    WORDS_MISSING,
    largest_symbol_value,
    scales,
    wrong_number_of_escapes,
)
from kvquilt_kernels.rans_streams import StreamError, join_escapes, parse_blocks, slot_entries
from kvquilt_kernels.rans_triton_kernels import (
    INTERPRETED,
    TOO_FEW_WORDS,
    UNKNOWN_TABLE,
    decode,
    place_escapes,
)
from kvquilt_kernels.types import BackendUnavailableError

Kind = Literal["symbols", "int32", "float32", "bfloat16"]

# What the kernels write, and what it is the bits of.
_BITS: dict[Kind, torch.dtype] = {
    "symbols": torch.uint8,
    "int32": torch.uint32,
    "float32": torch.uint32,
    "bfloat16": torch.uint16,
}
_VALUES: dict[Kind, torch.dtype] = {"int32": torch.int32, "float32": torch.float32, "bfloat16": torch.bfloat16}

# One warp a stream: its lanes then exchange counts without shared memory and barriers. A product must round once, so
# that it has the bits of the other backends.
OPTIONS = {"num_warps": 1, "num_stages": 1, "enable_fp_fusion": False}

# What the kernels look symbols up in (8 KB a table) stays on the device for as long as the tables are in use.
_slots: "WeakKeyDictionary[FrequencyTables, dict[torch.device, torch.Tensor]]" = WeakKeyDictionary()


class _Decoded(NamedTuple):
    """What `rans_triton_kernels.decode` writes."""

    bits: torch.Tensor
    escape_counts: torch.Tensor
    faults: torch.Tensor


class BatchDecoder:
    """Decodes blocks of one shape with shared tables in one launch, to tensors that stay on the device.

    A block is decoded by one warp, token after token, so a GPU is busy only with hundreds of blocks at once: of all
    layers, of several token blocks, of several chunks. Blocks are not trusted: of any bytes the kernels read only what
    the block has, in a time that the shape bounds. Every call waits for the device to learn which blocks are sound.

    Args:
        device: a CUDA device; None takes the current one, or the CPU where the kernels are interpreted.

    Raises:
        BackendUnavailableError: no GPU, and the kernels are not interpreted.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        if not (INTERPRETED or torch.cuda.is_available()):
            raise BackendUnavailableError(
                "expected a GPU that torch can use; got none: install a torch with CUDA on a machine with a GPU, "
                "or set TRITON_INTERPRET=1 before Python starts, to run the kernels on a CPU, slowly"
            )
        if device is None:
            device = torch.device("cpu") if INTERPRETED else torch.device("cuda", torch.cuda.current_device())
        self.device = device

    def symbols(
        self,
        blocks: Sequence[Bytes],
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: torch.Tensor,
        contexts: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Decode what `EntropyKernels.rans_encode` made of symbols.

        Args:
            blocks: one a stream.
            tokens: of every stream.
            channels: of every stream.
            tables: frequencies, shared by the streams.
            table_ids: uint8 `[streams, contexts, channels]`.
            contexts: uint8 `[streams, tokens, channels]`; None stands for zeros.

        Returns:
            uint8 `[streams, tokens, channels]`.

        Raises:
            StreamError: blocks that `EntropyKernels.rans_decode` would refuse; but a table id that is not used may be
                any.
            ValueError: shapes that do not fit together, or no blocks.
            TypeError: another dtype.
        """
        decoded = self._decode("symbols", blocks, tokens, channels, tables, table_ids, contexts)
        _raise_faults(decoded.faults.cpu().numpy(), table_ids, tables)
        return decoded.bits

    def quantised(
        self,
        blocks: Sequence[Bytes],
        escapes: Sequence[NDArray[np.int32]],
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: torch.Tensor,
    ) -> torch.Tensor:
        """Decode the integers q of `EntropyKernels.quantise_encode`, int32 `[streams, tokens, channels]`.

        Args:
            blocks: one a stream.
            escapes: one list a stream.
            tokens: of every stream.
            channels: of every stream.
            tables: frequencies of an even alphabet, shared by the streams.
            table_ids: uint8 `[streams, 1, channels]`.

        Raises:
            StreamError: blocks or escapes that `EntropyKernels.decode_quantised` would refuse.
            ValueError: shapes that do not fit together, no blocks, or an odd alphabet.
            TypeError: another dtype.
        """
        return self._values("int32", blocks, escapes, tokens, channels, None, tables, table_ids)

    def dequantised(
        self,
        blocks: Sequence[Bytes],
        escapes: Sequence[NDArray[np.int32]],
        tokens: int,
        channels: int,
        steps: Sequence[float],
        tables: FrequencyTables,
        table_ids: torch.Tensor,
        dtype: RealType,
    ) -> torch.Tensor:
        """Decode to `float32(q) * float32(step)`, rounded half to even if `dtype` is "bfloat16".

        Takes and raises what `quantised` does.

        Args:
            blocks: one a stream.
            escapes: one list a stream.
            tokens: of every stream.
            channels: of every stream.
            steps: one a stream.
            tables: frequencies of an even alphabet, shared by the streams.
            table_ids: uint8 `[streams, 1, channels]`.
            dtype: of the result.

        Returns:
            torch.float32 or torch.bfloat16 `[streams, tokens, channels]`.
        """
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f'expected "float32" or "bfloat16"; got {dtype!r}')
        if len(steps) != len(blocks):
            raise ValueError(f"expected one step a block; got {len(steps)} for {len(blocks)}")
        widths = self._on_device(np.array([scales(step)[0] for step in steps], np.float32))
        return self._values(dtype, blocks, escapes, tokens, channels, widths, tables, table_ids)

    def _decode(
        self,
        kind: Kind,
        blocks: Sequence[Bytes],
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: torch.Tensor,
        contexts: torch.Tensor | None = None,
        steps: torch.Tensor | None = None,
    ) -> _Decoded:
        check_size(tokens, channels)
        streams, lanes = len(blocks), lanes_for(tokens, channels)
        if not 0 < streams * tokens < 1 << 31:
            raise ValueError(f"expected 1 to 2^31 - 1 tokens in a batch; got {streams} blocks of {tokens}")
        rows = table_ids.shape[1] if table_ids.ndim == 3 else 0
        ids = self._indices("table ids", table_ids, (streams, max(1, rows), channels))
        given = None if contexts is None else self._indices("contexts", contexts, (streams, tokens, channels))
        parsed = parse_blocks(blocks, tokens, channels, tables.alphabet, lanes)
        decoded = _Decoded(
            bits=self._empty((streams, tokens, channels), _BITS[kind]),
            escape_counts=self._empty((streams, tokens, -(-channels // lanes)), torch.uint8),
            faults=self._empty((streams,), torch.int32),
        )
        with self._current():
            decode[(streams,)](
                self._on_device(parsed.states),
                self._on_device(parsed.words),
                self._on_device(parsed.word_offsets),
                self._slots(tables),
                ids,
                given,
                steps,
                decoded.bits,
                decoded.escape_counts,
                decoded.faults,
                tokens,
                channels,
                rows,
                tables.count,
                tables.alphabet,
                kind=kind,
                lanes=lanes,
                **OPTIONS,
            )
        return decoded

    def _values(
        self,
        kind: Kind,
        blocks: Sequence[Bytes],
        escapes: Sequence[NDArray[np.int32]],
        tokens: int,
        channels: int,
        steps: torch.Tensor | None,
        tables: FrequencyTables,
        table_ids: torch.Tensor,
    ) -> torch.Tensor:
        joined, offsets = join_escapes(escapes, len(blocks), largest_symbol_value(tables))
        if table_ids.ndim != 3 or table_ids.shape[1] != 1:
            raise ValueError(f"expected table ids [streams, 1, channels]; got {tuple(table_ids.shape)}")
        decoded = self._decode(kind, blocks, tokens, channels, tables, table_ids, steps=steps)
        begins = self._on_device(offsets)
        of_token = decoded.escape_counts.sum(2)
        firsts = of_token.cumsum(1) - of_token + begins[:-1, None]
        with self._current():
            place_escapes[(len(blocks) * tokens,)](
                decoded.bits,
                decoded.escape_counts,
                firsts,
                self._on_device(joined),
                begins,
                steps,
                tokens,
                channels,
                kind=kind,
                lanes=lanes_for(tokens, channels),
                **OPTIONS,
            )
        faults, found = torch.stack([decoded.faults.to(torch.int64), of_token.sum(1)]).cpu().numpy()
        _raise_faults(faults, table_ids, tables, [(int(n), len(own)) for n, own in zip(found, escapes, strict=True)])
        return decoded.bits.view(_VALUES[kind])

    def _current(self) -> AbstractContextManager[None]:
        """Make the device the current one: Triton launches there."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def _empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _on_device(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)

    def _indices(self, name: str, given: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
        if given.dtype != torch.uint8:
            raise TypeError(f"expected {name} of uint8; got {given.dtype}")
        if tuple(given.shape) != shape:
            raise ValueError(f"expected {name} {list(shape)}; got {tuple(given.shape)}")
        return given.to(self.device).contiguous()

    def _slots(self, tables: FrequencyTables) -> torch.Tensor:
        derived = _slots.setdefault(tables, {})
        if self.device not in derived:
            derived[self.device] = self._on_device(slot_entries(tables))
        return derived[self.device]


def _raise_faults(
    bits: NDArray[np.integer[Any]],
    table_ids: torch.Tensor,
    tables: FrequencyTables,
    escapes: Sequence[tuple[int, int]] = (),
) -> None:
    """Raise StreamError if a stream has fault bits, or escapes `(found, given)` that differ in number."""
    faults = {n: wrong_number_of_escapes(*pair) for n, pair in enumerate(escapes) if pair[0] != pair[1]}
    for number in np.flatnonzero(bits):
        if bits[number] & UNKNOWN_TABLE.value:
            expected = f"contexts below {table_ids.shape[1]} and table ids below {tables.count}"
            faults[int(number)] = f"expected {expected}; got larger ones"
        else:
            faults[int(number)] = WORDS_MISSING if bits[number] & TOO_FEW_WORDS.value else OTHER_END
    if faults:
        raise StreamError(faults)
