"""The vocabulary of the entropy coder: frequency tables, the rule for lanes, and what every backend does, to the bit.

docs/entropy.md specifies the bytes. The coder is rANS (J. Duda, "Asymmetric numeral systems", arXiv:1311.2540, 2013)
with 32-bit states and 16-bit words, its streams interleaved as in F. Giesen, "Interleaved entropy coders",
arXiv:1402.3392, 2014.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

TOTAL = 2048
"""Sum of the frequencies of a table: probabilities have 11 bits."""
MAX_TABLES = 64
MAX_ALPHABET = 256
LARGEST_QUANTUM = 1 << 30
"""Quantised values are clipped to this magnitude."""

RealType = Literal["float32", "bfloat16"]


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class FrequencyTables:
    """Tables shared by all channels: how often each symbol is expected, of 2048.

    Attributes:
        frequencies: uint16 `[tables, alphabet]`, 1 to 64 tables of 2 to 256 symbols; every entry at least 1, every row
            sums to 2048. It is copied, and the copy is read-only: backends keep what they derive from it.

    Raises:
        ValueError: anything else.
    """

    frequencies: NDArray[np.uint16]

    def __post_init__(self) -> None:
        given = np.asarray(self.frequencies)
        if given.dtype != np.uint16 or given.ndim != 2:
            raise ValueError(f"expected uint16 frequencies [tables, alphabet]; got {given.dtype} {given.shape}")
        if not (1 <= given.shape[0] <= MAX_TABLES and 2 <= given.shape[1] <= MAX_ALPHABET):
            raise ValueError(f"expected 1 to {MAX_TABLES} tables of 2 to {MAX_ALPHABET} symbols; got {given.shape}")
        if not given.all():
            raise ValueError("expected frequencies of at least 1; got a 0: its symbol could not be coded")
        sums = given.sum(axis=1, dtype=np.int64)
        if (sums != TOTAL).any():
            raise ValueError(f"expected tables that sum to {TOTAL}; got a sum of {sums[sums != TOTAL][0]}")
        own = np.array(given, np.uint16, order="C")
        own.flags.writeable = False
        object.__setattr__(self, "frequencies", own)

    @property
    def alphabet(self) -> int:
        """Number of symbols."""
        return int(self.frequencies.shape[1])

    @property
    def count(self) -> int:
        """Number of tables."""
        return int(self.frequencies.shape[0])


def frequencies_from_weights(weights: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Scale counts to frequencies: `f_s = 1 + floor(w_s * (2048 - A) / W)`, W the sum of the A weights.

    What the floors leave over goes to the first symbol of the largest frequency. Weights that are all zero give the
    frequencies of equal weights. Frequencies are stored, never computed again: another machine may sum otherwise.

    Args:
        weights: `[..., A]`, finite, none negative.

    Returns:
        `[..., A]`; every entry at least 1, every row sums to 2048.

    Raises:
        ValueError: an alphabet outside 2 to 256, negative weights, or a sum beyond 1e300.
    """
    given = np.asarray(weights, np.float64)
    if given.ndim == 0 or not 2 <= given.shape[-1] <= MAX_ALPHABET:
        raise ValueError(f"expected weights of 2 to {MAX_ALPHABET} symbols; got shape {given.shape}")
    alphabet = given.shape[-1]
    with np.errstate(over="ignore", invalid="ignore"):
        sums = given.sum(axis=-1, keepdims=True)
    if not ((given >= 0).all() and (sums <= 1e300).all()):
        raise ValueError("expected finite weights of at least 0, their sum at most 1e300")
    given = np.where(sums == 0, 1.0, given)
    floors = np.floor(given * (TOTAL - alphabet) / np.where(sums == 0, float(alphabet), sums))
    frequencies = 1 + floors.astype(np.int64).reshape(-1, alphabet)
    rows = np.arange(frequencies.shape[0])
    frequencies[rows, frequencies.argmax(axis=1)] += TOTAL - frequencies.sum(axis=1)
    scaled: NDArray[np.uint16] = frequencies.astype(np.uint16).reshape(given.shape)
    return scaled


def lanes_for(tokens: int, channels: int) -> int:
    """Lanes of a block: 32 up to 64 tokens; else 128, 64 or 32, the first that divides the channels, or 32.

    A lane costs 4 bytes a block, and more lanes decode faster.
    """
    if tokens > 64:
        for lanes in (128, 64):
            if channels % lanes == 0:
                return lanes
    return 32


def check_size(tokens: int, channels: int) -> None:
    """Raise ValueError for a number of tokens or channels that is 0, negative or beyond 32 bits."""
    if not (1 <= tokens < 1 << 32 and 1 <= channels < 1 << 32):
        raise ValueError(f"expected at least one token and one channel; got {tokens} and {channels}")


class EntropyKernels(Protocol):
    """Symbols to blocks of lane-interleaved rANS and back, alone or fused with quantisation.

    The table of a symbol is `table_ids[context, channel]`. Arrays are C-contiguous and aligned; results are new arrays
    that the caller owns. Every method raises ValueError for shapes that do not fit together (tokens and channels are
    at least 1), a table id without a table, and a context without a row of table ids; TypeError for another dtype.

    The quantising methods need an even alphabet A: symbols 0 to A-2 stand for the integers -R to R, R = (A - 2) / 2,
    and symbol A-1 is the escape. `step` is a positive number such that float32(step) and float32(1 / step) are finite
    and not 0. Floating-point arithmetic is IEEE 754 with subnormals, as a thread has it unless it was told otherwise.
    """

    def rans_encode(
        self, symbols: Bytes, tables: FrequencyTables, table_ids: Bytes, contexts: Bytes | None = None
    ) -> Bytes:
        """Encode symbols.

        Args:
            symbols: `[tokens, channels]`, each below the alphabet.
            tables: frequencies.
            table_ids: `[contexts, channels]`.
            contexts: `[tokens, channels]`, the row of `table_ids` for each symbol; None stands for zeros.

        Returns:
            The block, `[bytes]`.

        Raises:
            ValueError: a symbol outside the alphabet.
        """

    def rans_decode(
        self,
        block: Bytes,
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: Bytes,
        contexts: Bytes | None = None,
    ) -> Bytes:
        """Decode symbols `[tokens, channels]`; the arguments must be those of the encoder.

        A block that decodes is the one that `rans_encode` makes of the result. That finds damage by chance only: keep
        a checksum.

        Raises:
            ValueError: not such a block: another header, length or alphabet, words missing or left over, or states
                that do not end where the encoder began.
        """

    def quantise_encode(
        self, values: NDArray[np.float32], step: float, tables: FrequencyTables, table_ids: Bytes
    ) -> tuple[Bytes, NDArray[np.int32]]:
        """Quantise to `q = round_half_even(value * float32(1 / step))`, the product in float32, and encode.

        Args:
            values: `[tokens, channels]`, finite. q is clipped to -2^30..2^30; of a NaN it is -2^30.
            step: width of a quantisation interval.
            tables: frequencies, of an even alphabet.
            table_ids: `[1, channels]`.

        Returns:
            The block, and the q that are beyond R, in the order of `values` (row-major).
        """

    def decode_quantised(
        self,
        block: Bytes,
        escapes: NDArray[np.int32],
        tokens: int,
        channels: int,
        tables: FrequencyTables,
        table_ids: Bytes,
    ) -> NDArray[np.int32]:
        """Undo `quantise_encode` up to the integers q, int32 `[tokens, channels]`.

        Raises:
            ValueError: as `rans_decode`; more or fewer escapes than the block has, or one that needs no escape.
        """

    def decode_dequantise(
        self,
        block: Bytes,
        escapes: NDArray[np.int32],
        tokens: int,
        channels: int,
        step: float,
        tables: FrequencyTables,
        table_ids: Bytes,
        dtype: RealType,
    ) -> NDArray[np.float32] | NDArray[np.uint16]:
        """Decode to `float32(q) * float32(step)`, the product in float32, `[tokens, channels]`.

        Args:
            block: from `quantise_encode`.
            escapes: from `quantise_encode`.
            tokens: rows of the result.
            channels: columns of the result.
            step: that of the encoder.
            tables: those of the encoder.
            table_ids: those of the encoder, `[1, channels]`.
            dtype: "float32", or "bfloat16" for the uint16 bits of the product rounded half to even.

        Raises:
            ValueError: as `decode_quantised`, or another dtype.
        """
