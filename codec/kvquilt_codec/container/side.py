"""Side information of a variant to bytes and back (docs/formats.md, codec 8).

Codes are logarithmic, because both quantities rank tokens over several orders of magnitude: code c of 1..255 is the
maximum times 2^((c - 255) / 16), in steps of 4.4 %; 0 is 0. Values below the smallest step take it, not 0.
"""

import numpy as np
import zstandard
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.types import KVLayout, SideInfo

STEPS_PER_OCTAVE = 16
_HIGHEST = 255
_ROUNDING = 1.001
"""A mean of attention may come out this much above 1, because softmax is summed in float32; it is taken as 1."""
_MAX_FINITE_BITS = 0x7F7FFFFF
_DEPENDENCE, _INTER = 1, 2
_SCALE = np.concatenate([[0.0], np.exp2((np.arange(1, 256) - _HIGHEST) / STEPS_PER_OCTAVE)])

Codes = NDArray[np.uint8]
Values = NDArray[np.float32]


def encode_side(side: SideInfo, layout: KVLayout, tokens: int) -> bytes:
    """Payload of a chunk's side information.

    Raises:
        BadRequestError: nothing, another shape, values that cannot be, or (layers of very different numbers of heads)
            more than the chunk's own tensors take.
    """
    maxima: list[float] = []  # never -0.0, whose bits a reader refuses: adding 0.0 makes it 0.0
    codes: list[Codes] = []
    if side.dependence is not None:
        shape = _dependence_shape(layout, tokens)
        dependence = _checked("dependence", side.dependence, shape)
        if 4 * dependence.size > layout.nbytes(tokens):
            raise BadRequestError(f"expected a dependence no larger than the KV itself; got {shape}: leave it out")
        for rows, layer in zip(dependence, layout.layers, strict=True):
            if rows[layer.kv_heads :].any():
                raise BadRequestError("expected a dependence of 0 for heads that a layer has not; got another")
            maxima.append(float(rows.max()) + 0.0)
            codes.append(_codes(rows[: layer.kv_heads], maxima[-1]))
    if side.inter is not None:
        inter = _checked("inter", side.inter, (tokens,))
        if float(inter.max()) > _ROUNDING:
            raise BadRequestError(f"expected inter in 0..1; got {inter.max()}: it is a mean of attention")
        inter = np.minimum(inter, np.float32(1))
        maxima.append(float(inter.max()) + 0.0)
        codes.append(_codes(inter, maxima[-1]))
    if not codes:
        raise BadRequestError("expected a dependence or inter; got neither: encode without side information")
    present = (_DEPENDENCE if side.dependence is not None else 0) | (_INTER if side.inter is not None else 0)
    raw = b"".join(part.tobytes() for part in codes)
    return bytes([present]) + np.array(maxima, "<f4").tobytes() + zstandard.ZstdCompressor(level=9).compress(raw)


def decode_side(payload: bytes, layout: KVLayout, tokens: int, allowance: int) -> SideInfo:
    """What a payload holds, in arrays of at most `allowance` bytes.

    Raises:
        IntegrityError: not a payload of a chunk of this layout.
    """
    present = payload[0] if payload else 0
    if not 1 <= present <= _DEPENDENCE | _INTER:
        raise IntegrityError(f"expected side information; got a section of {len(payload)} bytes that says {present}")
    layers = len(layout.layers) if present & _DEPENDENCE else 0
    maxima_count = layers + (1 if present & _INTER else 0)
    frame = 1 + 4 * maxima_count
    sizes = [layer.kv_heads * tokens for layer in layout.layers[:layers]]
    sizes += [tokens] if present & _INTER else []
    shape = _dependence_shape(layout, tokens) if layers else (0, 0, 0)
    floats = 4 * shape[0] * shape[1] * shape[2]
    if len(payload) <= frame or floats > layout.nbytes(tokens) or floats > allowance:
        raise IntegrityError(f"expected side information of {shape}; {len(payload)} bytes cannot hold it")
    maxima = np.frombuffer(payload, "<f4", maxima_count, 1)
    if int(maxima.view("<u4").max()) > _MAX_FINITE_BITS or (present & _INTER and maxima[-1] > 1):
        raise IntegrityError("expected finite maxima of at least 0, of inter at most 1; the section has others")
    parts = np.split(_decompressed(payload[frame:], sum(sizes)), np.cumsum(sizes)[:-1])
    if any(maximum == 0 and part.any() for maximum, part in zip(maxima, parts, strict=True)):
        raise IntegrityError("expected zeros under a maximum of 0; the side information has others")
    values = [(_SCALE * float(maximum)).astype(np.float32)[part] for maximum, part in zip(maxima, parts, strict=True)]
    inter = values.pop() if present & _INTER else None
    if not layers:
        return SideInfo(None, inter)
    dependence = np.zeros(shape, np.float32)
    for rows, layer, part in zip(dependence, layout.layers, values, strict=True):
        rows[: layer.kv_heads] = part.reshape(layer.kv_heads, tokens)
    return SideInfo(dependence, inter)


def _dependence_shape(layout: KVLayout, tokens: int) -> tuple[int, int, int]:
    return len(layout.layers), max(layer.kv_heads for layer in layout.layers), tokens


def _checked(name: str, values: NDArray[np.float32], shape: tuple[int, ...]) -> Values:
    if values.shape != shape or values.dtype != np.float32:
        raise BadRequestError(f"expected {name} as float32 {shape}; got {values.dtype} {values.shape}")
    if not np.isfinite(values).all() or float(values.min()) < 0:
        raise BadRequestError(f"expected {name} finite and at least 0; it holds NaN, Inf or less: compute it again")
    return values


def _codes(values: Values, maximum: float) -> Codes:
    codes = np.zeros(values.shape, np.uint8)
    (above,) = np.nonzero(values.reshape(-1))
    octaves = np.log2(values.reshape(-1)[above].astype(np.float64)) - (np.log2(maximum) if maximum else 0)
    codes.reshape(-1)[above] = np.clip(np.rint(_HIGHEST + STEPS_PER_OCTAVE * octaves), 1, _HIGHEST)
    return codes


def _decompressed(frame: bytes, size: int) -> Codes:
    try:
        if zstandard.frame_content_size(frame) != size:
            raise IntegrityError(f"expected {size} codes of side information; the frame declares another number")
        raw = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise IntegrityError(f"expected side information in a zstd frame; got {error}") from None
    if len(raw) != size:
        raise IntegrityError(f"expected {size} codes of side information; got {len(raw)}")
    return np.frombuffer(raw, np.uint8)
