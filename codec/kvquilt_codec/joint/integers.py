"""Quantised integers to section payloads and back (docs/codec.md, codecs 4 to 6).

Steps of ratio 3 nest exactly: rounding to a coarse step, then looking up the remainder -1, 0 or 1, gives the integer
that rounding to the fine step gives.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.profile.types import CONTEXTS, QualityTables
from kvquilt_kernels.types import Kernels

Integers = NDArray[np.int32]
Contexts = NDArray[np.uint8]
"""`[tokens, channels]`: rows of the table ids."""

LARGEST = 1 << 23
"""Integers are clipped to this magnitude: float32, which the kernels take, holds them exactly."""
_COUNT = struct.Struct("<I")


def thirds(fine: Integers) -> Integers:
    """`fine / 3`, rounded to the nearest integer (there are no halves)."""
    coarse: Integers = (fine + 1) // 3
    return coarse


def nested(fine: Integers, quality_layers: int) -> list[Integers]:
    """The integers of every quality layer, the coarsest first; the last one is `fine`."""
    layers = [fine]
    for _ in range(quality_layers - 1):
        layers.insert(0, thirds(layers[0]))
    return layers


def encode_base(kernels: Kernels, coarse: Integers, tables: QualityTables, layer: int) -> bytes:
    """Payload of the coarsest integers: `u32 n | n escapes as i32 | rANS block`."""
    block, escapes = kernels.quantise_encode(coarse.astype(np.float32), 1.0, tables.tables, tables.table_ids[layer])
    return _COUNT.pack(len(escapes)) + escapes.astype("<i4").tobytes() + block.tobytes()


def decode_base(
    kernels: Kernels, payload: bytes | memoryview, tokens: int, tables: QualityTables, layer: int
) -> Integers:
    """Undo `encode_base`.

    Raises:
        IntegrityError: not such a payload.
    """
    view = memoryview(payload)
    if len(view) < _COUNT.size:
        raise IntegrityError(f"expected a payload of at least {_COUNT.size} bytes; got {len(view)}")
    (count,) = _COUNT.unpack_from(view)
    begin = _COUNT.size + 4 * count
    if begin > len(view):
        raise IntegrityError(f"expected {count} escapes; the payload of {len(view)} bytes cannot hold them")
    escapes = np.frombuffer(view, "<i4", count=count, offset=_COUNT.size).astype(np.int32)
    block = np.frombuffer(view, np.uint8, offset=begin)
    ids = tables.table_ids[layer]
    if np.abs(escapes.astype(np.int64)).max(initial=0) > LARGEST:
        raise IntegrityError(f"expected escapes within {LARGEST}; got larger ones")
    try:
        return kernels.decode_quantised(block, escapes, tokens, ids.shape[1], tables.tables, ids)
    except ValueError as error:
        raise IntegrityError(f"expected a rANS block of {tokens} tokens; {error}") from None


def encode_refinement(kernels: Kernels, fine: Integers, coarse: Integers, tables: QualityTables, layer: int) -> bytes:
    """Payload of what makes `coarse` into `fine`: one rANS block of the remainders."""
    symbols = (fine - 3 * coarse + 1).astype(np.uint8)
    return kernels.rans_encode(symbols, tables.tables, tables.table_ids[layer], contexts_of(coarse)).tobytes()


def decode_refinement(
    kernels: Kernels, payload: bytes | memoryview, coarse: Integers, tables: QualityTables, layer: int
) -> Integers:
    """Undo `encode_refinement`.

    Raises:
        IntegrityError: not such a payload.
    """
    block = np.frombuffer(payload, np.uint8)
    tokens, channels = coarse.shape
    try:
        ids = tables.table_ids[layer]
        symbols = kernels.rans_decode(block, tokens, channels, tables.tables, ids, contexts_of(coarse))
    except ValueError as error:
        raise IntegrityError(f"expected a rANS block of {tokens} tokens; {error}") from None
    fine: Integers = 3 * coarse
    fine += symbols
    fine -= 1
    return fine


def contexts_of(coarse: Integers) -> Contexts:
    """Contexts of a refinement: the coarser integers, clipped."""
    reach = CONTEXTS // 2
    clipped = np.clip(coarse, -reach, reach)
    clipped += reach
    contexts: Contexts = clipped.astype(np.uint8)
    return contexts
