"""Lossy: int8 with one bfloat16 scale per token and KV head.

Payload: `tokens * kv_heads` bfloat16 scales (little-endian), then `tokens * kv_heads * dim` int8 codes.
At head_dim 64 that is 8.25 bits per element, and the error of an element is at most half of its row's
`max|x| / 127` (plus the rounding of the result to the tensor's type).
"""

import ml_dtypes
import numpy as np

import kvquilt_kernels
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import Array, CodecId

_MAX_SCALE_BITS = 0x7F7F  # the largest finite bfloat16


class Int8TokenHead:
    """Codec 2, `int8-token-head`."""

    codec_id: int = CodecId.INT8_TOKEN_HEAD
    name = "int8-token-head"

    def __init__(self) -> None:
        self._kernels = kvquilt_kernels.default()

    def encode(self, tensor: Array) -> bytes:
        """See `SectionCodec.encode`."""
        rows = np.ascontiguousarray(tensor, dtype=np.float32).reshape(-1, tensor.shape[-1])
        codes, scales = self._kernels.quantise_rows(rows)
        return scales.astype("<u2").tobytes() + codes.tobytes()

    def decode(self, payload: bytes | memoryview, out: Array) -> None:
        """See `SectionCodec.decode`."""
        tokens, kv_heads, dim = out.shape
        rows = tokens * kv_heads
        if len(payload) != rows * (2 + dim):
            raise IntegrityError(f"expected an int8 payload of {rows * (2 + dim)} bytes; got {len(payload)}")
        scales = np.frombuffer(payload, "<u2", count=rows).astype(np.uint16)
        if int(scales.max(initial=0)) > _MAX_SCALE_BITS:
            raise IntegrityError("expected finite scales of at least 0; the payload holds others")
        codes = np.frombuffer(payload, np.int8, offset=2 * rows).reshape(rows, dim)
        values = self._kernels.dequantise_rows(np.ascontiguousarray(codes), scales).reshape(out.shape)
        # The scale is rounded up: without this, a value near the type's largest would come back as Inf.
        largest = np.float32(ml_dtypes.finfo(out.dtype).max)
        np.clip(values, -largest, largest, out=values)
        out[...] = values if out.dtype == np.float32 else values.astype(out.dtype)
