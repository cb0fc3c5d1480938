"""Between the bytes of LMCache's memory objects and chunks of the codec. Pure computation.

An object is one tensor or several, one after the other (one for each kind of layer). Keys and values come as
`[2, layers, tokens, width]`; a latent that stands for both (MLA) as `[layers, tokens, width]`, or with a leading 1.
What is neither, or of another element type, is carried as it is: its bits become mantissas of numbers that the lossless
codec takes, seven in each.
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from kvquilt.integrations.lmcache.identity import Layout, TensorSpec
from kvquilt.integrations.lmcache.settings import ModelSettings
from kvquilt_codec.container import DecodedChunk
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import LOSSLESS, StorageForm
from kvquilt_codec.types import (
    MAX_CHUNK_TOKENS,
    MAX_HEAD_DIM,
    MAX_KV_HEADS,
    MAX_LAYERS,
    Array,
    DataType,
    KVChunk,
    KVLayout,
    LayerShape,
    Level,
)

Buffer = memoryview
"""Bytes of a memory object, of which this module reads, or which it writes."""

_TYPES = {data_type.value: data_type for data_type in DataType}
_ONE = 0x3F80
"""The bits of 1 in bfloat16; with any mantissa a number from 1 to below 2."""
_BITS = 7
_SHIFTS = np.arange(_BITS * _BITS, -1, -_BITS, dtype=np.uint64)
"""Of the eight groups of seven bits in seven bytes."""
_STEP = _BITS << 17
_ROWS = 256
_LAYER_WORDS = 2 * _ROWS * 512
MAX_OPAQUE_BYTES = MAX_LAYERS * _LAYER_WORDS * _BITS // 8
"""More does not fit into a container as bare bits."""


class Kind(Enum):
    """What an object holds."""

    KEYS_VALUES = "keys_values"
    LATENT = "latent"
    OPAQUE = "opaque"


@dataclass(frozen=True, slots=True)
class Plan:
    """How objects of a layout are stored.

    Attributes:
        kind: what they hold.
        form: of the container.
        layout: of the container.
        tokens: of the container; of an opaque object they mean nothing.
        nbytes: of an object.
    """

    kind: Kind
    form: StorageForm
    layout: KVLayout
    tokens: int
    nbytes: int


def plan(layout: Layout, nbytes: int, model: ModelSettings) -> Plan:
    """How objects of this layout and size are stored.

    Raises:
        BadRequestError: nothing, or too much to be stored as bare bits.
    """
    for kind in (Kind.KEYS_VALUES, Kind.LATENT):
        found = _tensors(layout, kind, model.head_dim)
        if found is not None and found[0].nbytes(found[1]) == nbytes:
            high = model.stored_level is Level.HIGH and kind is Kind.KEYS_VALUES and _whole_heads(found[0], model)
            return Plan(kind, StorageForm(Level.HIGH) if high else LOSSLESS, *found, nbytes)
    if not 1 <= nbytes <= MAX_OPAQUE_BYTES:
        raise BadRequestError(
            f"expected objects of floating-point keys and values, or of 1..{MAX_OPAQUE_BYTES} bytes; got {nbytes} "
            f"bytes of {layout!r:.200}"
        )
    words = -(-nbytes * 8 // _BITS)
    layers = -(-words // _LAYER_WORDS)
    width = -(-words // (2 * _ROWS * layers))
    shape = KVLayout(DataType.BFLOAT16, (LayerShape(1, width, width),) * layers)
    return Plan(Kind.OPAQUE, LOSSLESS, shape, _ROWS, nbytes)


def chunk_of(buffer: Buffer, layout: Layout, planned: Plan) -> KVChunk:
    """The chunk that holds an object; views of its bytes where that is possible.

    Its token ids are zeros, since LMCache does not tell them, and its keys are as the engine made them.
    """
    if planned.kind is Kind.OPAQUE:
        words = _packed(np.frombuffer(buffer, np.uint8), planned)
        pairs = [(layer[0], layer[1]) for layer in words]
    else:
        pairs = _pairs(buffer, layout, planned)
    keys, values = zip(*pairs, strict=True)
    return KVChunk(planned.layout, np.zeros(planned.tokens, np.uint32), keys, values, rotated_from=0)


def restore(chunk: DecodedChunk, layout: Layout, planned: Plan, buffer: Buffer) -> None:
    """Write what a container held into an object. Nothing is written unless all of it fits.

    Raises:
        IntegrityError: the container is of another shape, or the buffer of another size.
    """
    header = chunk.head.header
    if header.layout != planned.layout or header.tokens != planned.tokens or buffer.nbytes != planned.nbytes:
        raise IntegrityError(
            f"expected {planned.nbytes} bytes of {planned.tokens} tokens; the object is of another shape: another "
            "version stored it, or under a wrong key"
        )
    if planned.kind is Kind.OPAQUE:
        words = np.stack([np.stack([layer.keys, layer.values]) for layer in chunk.kv]).view(np.uint16).reshape(-1)
        if bool(np.any((words & 0xFF80) != _ONE)):
            raise IntegrityError("expected bits carried as mantissas; the object holds other numbers")
        _unpack((words & 0x7F).astype(np.uint8), np.frombuffer(buffer, np.uint8))
        return
    for layer, (keys, values) in zip(chunk.kv, _pairs(buffer, layout, planned), strict=True):
        keys[...] = layer.keys
        values[...] = layer.values


def _tensors(layout: Layout, kind: Kind, head_dim: int) -> tuple[KVLayout, int] | None:
    """Layers and tokens of tensors that are all of a kind and of one element type; `None` if they are not."""
    if not layout or len({spec.data_type for spec in layout}) != 1 or layout[0].data_type not in _TYPES:
        return None
    shapes = [_shape(spec, kind) for spec in layout]
    if any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    tokens = {tokens for _, tokens, _ in known}
    count = sum(layers for layers, _, _ in known)
    if len(tokens) != 1 or not 1 <= min(tokens) <= MAX_CHUNK_TOKENS or not 1 <= count <= MAX_LAYERS:
        return None
    layers: list[LayerShape] = []
    for number, _, width in known:
        if kind is Kind.LATENT:
            if not 2 <= width <= 2 * MAX_HEAD_DIM:
                return None
            layers += [LayerShape(1, width // 2, width - width // 2)] * number
            continue
        heads = _heads(width, head_dim)
        if heads is None:
            return None
        layers += [LayerShape(heads, width // heads, width // heads)] * number
    return KVLayout(_TYPES[layout[0].data_type], tuple(layers)), tokens.pop()


def _shape(spec: TensorSpec, kind: Kind) -> tuple[int, int, int] | None:
    """Layers, tokens and width, if the tensor is of a kind."""
    if min(spec.shape, default=0) < 1:
        return None
    if kind is Kind.KEYS_VALUES:
        return spec.shape[1:] if len(spec.shape) == 4 and spec.shape[0] == 2 else None
    if len(spec.shape) == 4 and spec.shape[0] == 1:
        return spec.shape[1:]
    return spec.shape if len(spec.shape) == 3 else None


def _heads(width: int, head_dim: int) -> int | None:
    """Heads of a width: of the known dimension, or as few as the codec can have; to lossless it is all the same."""
    if head_dim and width % head_dim == 0 and width // head_dim <= MAX_KV_HEADS:
        return width // head_dim
    least = -(-width // MAX_HEAD_DIM)
    return next((heads for heads in range(least, min(MAX_KV_HEADS, width) + 1) if width % heads == 0), None)


def _whole_heads(layout: KVLayout, model: ModelSettings) -> bool:
    return all(layer.key_dim == model.head_dim for layer in layout.layers)


def _pairs(buffer: Buffer, layout: Layout, planned: Plan) -> list[tuple[Array, Array]]:
    """Views of the two parts of every layer, `[tokens, heads, dim]`: keys and values, or the halves of a latent."""
    pairs: list[tuple[Array, Array]] = []
    begin = 0
    data_type = planned.layout.data_type
    for spec in layout:
        count = math.prod(spec.shape)
        flat: Array = np.frombuffer(buffer, data_type.numpy, count, begin)
        begin += count * data_type.itemsize
        if planned.kind is Kind.KEYS_VALUES:
            for keys, values in zip(*flat.reshape(spec.shape), strict=True):
                shape = planned.layout.layers[len(pairs)]
                pairs.append((_by_heads(keys, shape.kv_heads), _by_heads(values, shape.kv_heads)))
        else:
            for latent in flat.reshape(spec.shape[-3:]):
                half = latent.shape[1] // 2
                pairs.append((latent[:, None, :half], latent[:, None, half:]))
    return pairs


def _by_heads(tensor: Array, heads: int) -> Array:
    return tensor.reshape(len(tensor), heads, -1)


def _packed(data: NDArray[np.uint8], planned: Plan) -> Array:
    """`[layers, 2, tokens, 1, width]` bfloat16, whose mantissas are the bits of `data`, then zeros."""
    shape = planned.layout.layers[0]
    words = np.full((len(planned.layout.layers), 2, planned.tokens, 1, shape.key_dim), _ONE, np.uint16)
    flat = words.reshape(-1)
    for begin in range(0, len(data), _STEP):
        piece = data[begin : begin + _STEP]
        groups = np.zeros((-(-len(piece) // _BITS), 8), np.uint8)
        groups[:, 1:] = np.pad(piece, (0, -len(piece) % _BITS)).reshape(-1, _BITS)
        sevens = (groups.view(">u8") >> _SHIFTS) & np.uint64(0x7F)
        at = begin // _BITS * 8
        target = flat[at : at + sevens.size]
        target |= sevens.reshape(-1)[: len(target)].astype(np.uint16)
    return words.view(planned.layout.data_type.numpy)


def _unpack(sevens: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
    """Undo `_packed` into `out`."""
    for begin in range(0, len(out), _STEP):
        size = min(_STEP, len(out) - begin)
        at, count = begin // _BITS * 8, -(-size // _BITS) * 8
        piece = sevens[at : at + count]
        groups = np.pad(piece, (0, count - len(piece))).reshape(-1, 8).astype(np.uint64) << _SHIFTS
        octets = np.bitwise_or.reduce(groups, axis=1).astype(">u8")[:, None].view(np.uint8)[:, 1:]
        out[begin : begin + size] = octets.reshape(-1)[:size]
