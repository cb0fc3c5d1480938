"""Lossless: byte planes of the tensor's words, each compressed with zstd if that makes it smaller.

Payload: for every plane, the lowest byte first, `u8 mode, u32 length, data`; mode 0 is raw, mode 1 one zstd frame.
"""

import struct

import numpy as np
import zstandard

import kvquilt_kernels
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import Array, CodecId

_RAW, _ZSTD = 0, 1
_PLANE = struct.Struct("<BI")
_ZSTD_LEVEL = 1  # higher levels gain under 1 % on exponent planes and cost several times the time


class PlanesZstd:
    """Codec 1, `planes-zstd`: bit-exact for every data type, NaN payloads included."""

    codec_id: int = CodecId.PLANES_ZSTD
    name = "planes-zstd"

    def __init__(self) -> None:
        self._kernels = kvquilt_kernels.default()

    def encode(self, tensor: Array) -> bytes:
        """See `SectionCodec.encode`."""
        width = tensor.dtype.itemsize
        words = np.ascontiguousarray(tensor).reshape(-1).view(np.uint8)
        planes = self._kernels.split_planes(words, width).reshape(width, -1)
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL)
        parts: list[bytes] = []
        for plane in planes:
            raw = plane.tobytes()
            packed = compressor.compress(raw)
            mode, data = (_ZSTD, packed) if len(packed) < len(raw) else (_RAW, raw)
            parts += (_PLANE.pack(mode, len(data)), data)
        return b"".join(parts)

    def decode(self, payload: bytes | memoryview, out: Array) -> None:
        """See `SectionCodec.decode`."""
        view = memoryview(payload)
        planes = np.empty((out.dtype.itemsize, out.size), np.uint8)
        position = 0
        for plane in planes:
            if position + _PLANE.size > len(view):
                raise IntegrityError(f"expected {len(planes)} planes; the payload ends after {position} bytes")
            mode, length = _PLANE.unpack_from(view, position)
            position += _PLANE.size
            if length > len(view) - position:
                raise IntegrityError(f"expected a plane of {length} bytes; {len(view) - position} are left")
            plane[:] = np.frombuffer(_plane_bytes(mode, view[position : position + length], plane.size), np.uint8)
            position += length
        if position != len(view):
            raise IntegrityError(f"expected a payload of {position} bytes; got {len(view)}")
        words = self._kernels.merge_planes(planes.reshape(-1), out.dtype.itemsize)
        out[...] = words.view(out.dtype).reshape(out.shape)


def _plane_bytes(mode: int, data: memoryview, size: int) -> bytes | memoryview:
    """The `size` bytes of a plane. Checks the size that the zstd frame declares before anything is allocated."""
    if mode == _RAW and len(data) == size:
        return data
    if mode == _ZSTD:
        try:
            if zstandard.frame_content_size(data) == size:
                decoded = zstandard.ZstdDecompressor().decompress(data, max_output_size=size, allow_extra_data=False)
                if len(decoded) == size:
                    return decoded
        except zstandard.ZstdError as error:
            raise IntegrityError(f"expected a zstd frame of {size} bytes; got {error}") from None
    raise IntegrityError(
        f"expected a plane of {size} bytes; got mode {mode} with {len(data)} bytes that hold another size"
    )
