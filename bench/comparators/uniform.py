"""Uniform quantisation of groups: the part that int8, int4 and KIVI have in common."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]
Halves = NDArray[np.float16]


def quantise(groups: Floats, bits: int) -> tuple[Codes, Halves, Halves]:
    """Asymmetric: `code = round((x - zero) / scale)`, zero the minimum and scale the range over 2^bits - 1.

    Args:
        groups: `[groups, size]`.
        bits: of a code.

    Returns:
        Codes `[groups, size]`, scales and zeros `[groups]` in float16.
    """
    top = (1 << bits) - 1
    zero = groups.min(axis=1).astype(np.float16)
    scale = ((groups.max(axis=1) - groups.min(axis=1)) / top).astype(np.float16)
    scale[scale == 0] = np.float16(1)
    codes = np.rint((groups - zero[:, None].astype(np.float32)) / scale[:, None].astype(np.float32))
    return codes.clip(0, top).astype(np.uint8), scale, zero


def dequantise(codes: Codes, scale: Halves, zero: Halves) -> Floats:
    """`code * scale + zero`, `[groups, size]`."""
    return codes * scale[:, None].astype(np.float32) + zero[:, None].astype(np.float32)


def pack(codes: Codes, bits: int) -> bytes:
    """Codes of 2, 4 or 8 bits, several a byte, the first lowest."""
    each = 8 // bits
    shifts = np.arange(each, dtype=np.uint8) * np.uint8(bits)
    return np.bitwise_or.reduce(codes.reshape(-1, each) << shifts, axis=1).astype(np.uint8).tobytes()


def unpack(data: bytes, bits: int) -> Codes:
    """Undo `pack`: `[codes]`."""
    shifts = np.arange(8 // bits, dtype=np.uint8) * np.uint8(bits)
    packed = np.frombuffer(data, np.uint8)
    return ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)


def encode(groups: Floats, bits: int) -> bytes:
    """Scales, zeros and packed codes of `[groups, size]`."""
    codes, scale, zero = quantise(groups, bits)
    return scale.tobytes() + zero.tobytes() + pack(codes, bits)


def decode(data: bytes, groups: int, size: int, bits: int) -> Floats:
    """Undo `encode`: `[groups, size]`."""
    scale, zero = np.frombuffer(data, np.float16, 2 * groups).reshape(2, groups)
    return dequantise(unpack(data[4 * groups :], bits).reshape(groups, size), scale, zero)
