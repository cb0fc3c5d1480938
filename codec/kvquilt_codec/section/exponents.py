"""Lossless: signs and exponents through the entropy coder, mantissas as they are (docs/formats.md, codec 7).

Most of a KV tensor's bits are mantissas, which nothing shrinks. Values of one channel are alike in magnitude and often
in sign: close to normally distributed. So each channel names one of the tables that normal distributions give
(`normal_tables`) and the exponent where it begins: two bytes, and no tables to learn, send or have a profile for.
Exponents alone, in this manner: ZipNN (arXiv:2411.05239), DFloat11 (arXiv:2504.11651), with tables of the data.
"""

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import kvquilt_kernels
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.section.normal_tables import OCTAVES, TABLES
from kvquilt_codec.types import Array, CodecId
from kvquilt_kernels.entropy import TOTAL, Bytes
from kvquilt_kernels.floats import BFLOAT16, FLOAT16, FLOAT32, Anchors, FloatFormat, SplitFloats, Words
from kvquilt_kernels.types import Kernels

_RAW, _CODED = b"\0", b"\1"
_ESCAPES = struct.Struct("<I")
_FORMATS = {"bfloat16": BFLOAT16, "float16": FLOAT16, "float32": FLOAT32}

_BEGINNINGS = 3
"""An encoder tries windows that begin an octave above the largest exponent, at it, or an octave below."""
_COUNTED = OCTAVES + _BEGINNINGS - 1


def _costs() -> NDArray[np.float32]:
    """`[2 * _COUNTED + 1, beginnings * tables]`: 64ths of a bit that a counted value costs.

    Whole numbers: sums are exact, so that every machine makes the same choice.
    """
    bits = np.rint(64 * (np.log2(TOTAL) - np.log2(TABLES.frequencies.astype(np.float64)))).T
    escape = bits[-1] + 64 * 16
    costs = np.broadcast_to(escape, (_BEGINNINGS, 2 * _COUNTED + 1, TABLES.count)).copy()
    for begin in range(_BEGINNINGS):
        costs[begin, 2 * begin : 2 * (begin + OCTAVES)] = bits[:-1]
    return costs.transpose(1, 0, 2).reshape(2 * _COUNTED + 1, -1).astype(np.float32)


_COSTS = _costs()
_SIGNS = np.array([1, -1] * _COUNTED + [0], np.float32)
_OTHER_SIGN = np.append(np.arange(2 * _COUNTED) ^ 1, 2 * _COUNTED)


@dataclass(frozen=True, slots=True, eq=False)
class _Channels:
    """What a payload says of each channel, `[channels]`.

    Attributes:
        anchors: where the symbols begin.
        bare: channels whose mantissas are all zero, and not stored.
        tables: which table.
    """

    anchors: Anchors
    bare: NDArray[np.bool_]
    tables: Bytes

    def pack(self) -> bytes:
        """Two bytes a channel: all tops, then flip, bare and table of all."""
        rest: Bytes = self.anchors.flips | (self.bare << np.uint8(1)) | (self.tables << np.uint8(2))
        return self.anchors.tops.tobytes() + rest.tobytes()

    @classmethod
    def unpack(cls, payload: memoryview, channels: int) -> "_Channels":
        """Undo `pack` of `2 * channels` bytes."""
        tops, rest = np.frombuffer(payload, np.uint8).reshape(2, channels)
        return cls(Anchors(tops, rest & np.uint8(1), OCTAVES), (rest & np.uint8(2)) != 0, rest >> np.uint8(2))


class ExponentsRans:
    """Codec 7, `exponents-rans`: bit-exact for every data type, NaN payloads included."""

    codec_id: int = CodecId.EXPONENTS_RANS
    name = "exponents-rans"

    def __init__(self, kernels: Kernels | None = None) -> None:
        self._kernels = kernels or kvquilt_kernels.default()

    def encode(self, tensor: Array) -> bytes:
        """See `SectionCodec.encode`."""
        tensor = np.ascontiguousarray(tensor)
        coded = self.encode_coded(tensor)
        return coded if len(coded) <= tensor.nbytes else _RAW + tensor.tobytes()

    def encode_coded(self, tensor: Array) -> bytes:
        """Payload of a contiguous tensor in mode 1, whatever its size."""
        kernels, float_format = self._kernels, _FORMATS[tensor.dtype.name]
        words: Words = tensor.reshape(len(tensor), -1).view(float_format.words)
        channels = _choose(kernels, words, float_format)
        parts = kernels.split_floats(words, float_format, channels.anchors)
        block = kernels.rans_encode(parts.symbols, TABLES, channels.tables[None])
        mantissas = _store(kernels, parts.mantissas, float_format, channels.bare)
        escapes = parts.escapes.astype("<u2")
        head = (_CODED, _ESCAPES.pack(len(escapes)), channels.pack(), escapes.tobytes())
        return b"".join((*head, *mantissas, block.tobytes()))

    def decode(self, payload: bytes | memoryview, out: Array) -> None:
        """See `SectionCodec.decode`."""
        view = memoryview(payload)
        if view[:1] == _RAW:
            if len(view) != 1 + out.nbytes:
                raise IntegrityError(f"expected {out.nbytes} bytes after mode 0; got {len(view) - 1}")
            out[...] = np.frombuffer(view, np.uint8, offset=1).view(out.dtype).reshape(out.shape)
            return
        if view[:1] != _CODED:
            raise IntegrityError(f"expected mode 0 or 1 of a lossless section; got {view[:1].hex() or 'no bytes'}")
        try:
            words = self._decode_coded(view[1:], len(out), out[0].size, _FORMATS[out.dtype.name])
        except ValueError as error:
            raise IntegrityError(f"expected a lossless section of shape {out.shape}; {error}") from None
        out[...] = words.view(out.dtype).reshape(out.shape)

    def _decode_coded(self, view: memoryview, tokens: int, width: int, float_format: FloatFormat) -> Words:
        kernels = self._kernels
        begin = _ESCAPES.size + 2 * width
        if len(view) < begin:
            raise ValueError(f"expected {begin} bytes of side information; got {len(view)}")
        (count,) = _ESCAPES.unpack_from(view)
        channels = _Channels.unpack(view[_ESCAPES.size : begin], width)
        if 2 * count > len(view) - begin:
            raise ValueError(f"expected {count} escapes; {len(view) - begin} bytes are left")
        escapes = np.frombuffer(view, "<u2", count=count, offset=begin).astype(np.uint16)
        mantissas, begin = _restore(kernels, view, begin + 2 * count, tokens, float_format, channels.bare)
        block = np.frombuffer(view, np.uint8, offset=begin)
        symbols = kernels.rans_decode(block, tokens, width, TABLES, channels.tables[None])
        return kernels.merge_floats(SplitFloats(symbols, escapes, mantissas), float_format, channels.anchors)


def _choose(kernels: Kernels, words: Words, float_format: FloatFormat) -> _Channels:
    """The cheapest beginning and table of every channel."""
    bits = float_format.mantissa_bits
    magnitudes = words & words.dtype.type((1 << (8 * float_format.width - 1)) - 1)
    largest = (magnitudes.max(axis=0) >> bits).astype(np.uint8)
    most = (1 << float_format.exponent_bits) - 1
    tops = np.minimum(np.maximum(largest, _BEGINNINGS - 2), most - 1) + np.uint8(1)
    counts = kernels.exponent_counts(words, float_format, tops, _COUNTED).astype(np.float32)
    flips = counts @ _SIGNS < 0
    counts[flips] = counts[flips][:, _OTHER_SIGN]
    begins, tables = np.divmod((counts @ _COSTS).argmin(axis=1), TABLES.count)
    anchors = Anchors(tops - begins.astype(np.uint8), flips.astype(np.uint8), OCTAVES)
    bare = (np.bitwise_or.reduce(words, axis=0) & words.dtype.type((1 << bits) - 1)) == 0
    return _Channels(anchors, bare, tables.astype(np.uint8))


def _store(kernels: Kernels, mantissas: Bytes, float_format: FloatFormat, bare: NDArray[np.bool_]) -> list[bytes]:
    """The planes of all channels that are not bare: whole bytes as they are, the last one's bits packed."""
    if bare.any():
        mantissas = np.ascontiguousarray(mantissas[:, :, ~bare])
    rest = float_format.mantissa_bits % 8
    packed = kernels.pack_bits(mantissas[-1].reshape(-1), rest)
    return [*(plane.tobytes() for plane in mantissas[:-1]), packed.tobytes()]


def _restore(
    kernels: Kernels, view: memoryview, begin: int, tokens: int, float_format: FloatFormat, bare: NDArray[np.bool_]
) -> tuple[Bytes, int]:
    """Undo `_store`; also where the mantissas end."""
    live = tokens * int(np.count_nonzero(~bare))
    rest = float_format.mantissa_bits % 8
    whole = (float_format.planes - 1) * live
    end = begin + whole + rest * -(-live // 8)
    if end > len(view):
        raise ValueError(f"expected {end - begin} bytes of mantissas; {len(view) - begin} are left")
    last = kernels.unpack_bits(np.frombuffer(view, np.uint8, end - begin - whole, begin + whole), rest, live)
    if not whole and not bare.any():
        return last.reshape(1, tokens, -1), end
    planes = np.concatenate([np.frombuffer(view, np.uint8, whole, begin), last])
    planes = planes.reshape(float_format.planes, tokens, -1)
    if not bare.any():
        return planes, end
    mantissas = np.zeros((float_format.planes, tokens, len(bare)), np.uint8)
    mantissas[:, :, ~bare] = planes
    return mantissas, end
