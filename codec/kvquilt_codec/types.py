"""The vocabulary of the codec: what a chunk's KV is, and the contracts of the parts that turn it into bytes.

Read this file first. Arrays are NumPy (`ml_dtypes` gives NumPy its bfloat16), so that nothing here needs torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Any, Protocol

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError

TOKEN_BLOCK = 256
"""Tokens of a chunk that are coded together: the unit of random access."""

MAX_CHUNK_TOKENS = 4096
MAX_LAYERS = 1024
MAX_QUALITY_LAYERS = 4
MAX_KV_HEADS = 1024
MAX_HEAD_DIM = 4096
MAX_TOKEN_ID = 2**32 - 1

TokenIds = NDArray[np.uint32]
Array = NDArray[Any]
"""An array of a KV data type (bfloat16, float16 or float32)."""


class DataType(Enum):
    """Element type of KV tensors."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"

    @property
    def numpy(self) -> "np.dtype[Any]":
        """The NumPy data type."""
        data_type: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16 if self is DataType.BFLOAT16 else self.value)
        return data_type

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return 4 if self is DataType.FLOAT32 else 2


_EXPONENT_BITS: dict[DataType, tuple[type[np.uint16] | type[np.uint32], int]] = {
    DataType.BFLOAT16: (np.uint16, 0x7F80),
    DataType.FLOAT16: (np.uint16, 0x7C00),
    DataType.FLOAT32: (np.uint32, 0x7F800000),
}
"""NaN and Inf are the values whose exponent bits are all ones (IEEE 754)."""


class Level(Enum):
    """A named operating point of the codec, the truest first."""

    LOSSLESS = "lossless"
    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class VariantKind(Enum):
    """What preceded a chunk when its KV was computed."""

    EXACT = "exact"
    """The whole prefix: usable where the same tokens precede it, and there identical to a full prefill."""
    PAIR = "pair"
    """The shared prefix, then what really precedes the chunk: the previous one, or the earlier ones of its document."""
    WARM = "warm"
    """The shared prefix and fixed passages of the same corpus."""
    BASE = "base"
    """The shared prefix only."""


class Part(IntEnum):
    """What a section of a container holds; the numbers are the order within a layer."""

    TOKENS = 0
    """The chunk's token ids; once, in token block 0, layer 0."""
    SIDE = 1
    """Side information of the layer, for instance per-token weights."""
    KEYS = 2
    VALUES = 3
    JOINT = 4
    """Keys and values coded together."""
    CONTEXT = 5
    """How the chunk depends on what preceded it (`SideInfo`); at most once, in token block 0, layer 0."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Shape of one model layer's KV: `kv_heads` heads of `key_dim` and `value_dim` elements."""

    kv_heads: int
    key_dim: int
    value_dim: int

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("kv_heads", self.kv_heads, MAX_KV_HEADS),
            ("key_dim", self.key_dim, MAX_HEAD_DIM),
            ("value_dim", self.value_dim, MAX_HEAD_DIM),
        ):
            if not 1 <= value <= limit:
                raise BadRequestError(f"expected {name} in 1..{limit}; got {value}")

    def of(self, part: Part, tokens: int) -> tuple[int, int, int]:
        """Array shape `(tokens, kv_heads, dim)` of this layer's keys or values."""
        return (tokens, self.kv_heads, self.key_dim if part is Part.KEYS else self.value_dim)


@dataclass(frozen=True, slots=True)
class KVLayout:
    """Shape and element type of a model's KV: one `LayerShape` per layer, in the model's order."""

    data_type: DataType
    layers: tuple[LayerShape, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.layers) <= MAX_LAYERS:
            raise BadRequestError(f"expected 1..{MAX_LAYERS} layers; got {len(self.layers)}")

    @property
    def elements_per_token(self) -> int:
        """KV elements of one token over all layers."""
        return sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in self.layers)

    def nbytes(self, tokens: int, layers: range | None = None) -> int:
        """Bytes of the raw tensors of `tokens` tokens, of all layers or of a range."""
        chosen = self.layers if layers is None else self.layers[layers.start : layers.stop]
        per_token = sum(layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in chosen)
        return tokens * per_token * self.data_type.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class KVChunk:
    """The KV of one chunk.

    Attributes:
        layout: shapes and element type.
        token_ids: `[tokens]` uint32.
        keys: per layer `[tokens, kv_heads, key_dim]`.
        values: per layer `[tokens, kv_heads, value_dim]`.
        rotated_from: `None` if the keys are un-rotated (free of position, before RoPE); otherwise the position that
            the first token's key is rotated to, the others following one by one.

    Raises:
        BadRequestError: counts, shapes or element types differ from the layout.
    """

    layout: KVLayout
    token_ids: TokenIds
    keys: tuple[Array, ...]
    values: tuple[Array, ...]
    rotated_from: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "token_ids", check_token_ids(self.token_ids))
        tokens = len(self.token_ids)
        if self.rotated_from is not None and not 0 <= self.rotated_from < 2**31:
            raise BadRequestError(f"expected rotated_from in 0..2**31; got {self.rotated_from}")
        for part, arrays in ((Part.KEYS, self.keys), (Part.VALUES, self.values)):
            name = part.name.lower()
            if len(arrays) != len(self.layout.layers):
                raise BadRequestError(f"expected {name} of {len(self.layout.layers)} layers; got {len(arrays)}")
            for index, (array, layer) in enumerate(zip(arrays, self.layout.layers, strict=True)):
                if array.shape != layer.of(part, tokens) or array.dtype != self.layout.data_type.numpy:
                    raise BadRequestError(
                        f"expected {name} of layer {index} as {self.layout.data_type.value} "
                        f"{layer.of(part, tokens)}; got {array.dtype} {array.shape}"
                    )

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.token_ids)

    def layer(self, index: int) -> "LayerKV":
        """Keys and values of one layer."""
        return LayerKV(self.keys[index], self.values[index])

    def check_finite(self) -> None:
        """Refuse NaN and Inf: they are a fault of the computation, and stored they would spoil every later reader.

        Raises:
            BadRequestError: names the layer and the tensor.
        """
        for name, arrays in (("keys", self.keys), ("values", self.values)):
            for index, array in enumerate(arrays):
                check_finite(array, self.layout.data_type, f"{name} of layer {index}")


@dataclass(frozen=True, slots=True)
class LayerKV:
    """Decoded KV of one layer: keys `[tokens, kv_heads, key_dim]`, values `[tokens, kv_heads, value_dim]`."""

    keys: Array
    values: Array


@dataclass(frozen=True, slots=True, eq=False)
class SideInfo:
    """How a variant of a chunk depends on what preceded it. Either may be absent.

    Attributes:
        dependence: `[layers, kv_heads, tokens]` float32, at least 0: how much a token's values depend on what precedes
            the chunk, ||V_variant - V_base||_2 / mean ||V||. Layers with fewer heads than others have zeros for more.
        inter: `[tokens]` float32 in 0..1: attention that the token gave to its context beyond the shared prefix, the
            mean over layers and heads.
    """

    dependence: NDArray[np.float32] | None = None
    inter: NDArray[np.float32] | None = None


class CodecId(IntEnum):
    """What turned a section's content into bytes. An id names a format for ever (docs/formats.md)."""

    INT8_TOKEN_HEAD = 2
    EXACT_TOKENS = 3
    JOINT = 4
    REFINEMENT = 5
    JOINT_PREDICTED = 6
    """As `JOINT`, but a layer can only be decoded after the layers before it."""
    EXPONENTS_RANS = 7
    CONTEXT_LOG8 = 8
    TOKEN_IDS = 16


class SectionCodec(Protocol):
    """Turns one tensor of one token block into bytes and back. A codec id names a format for ever."""

    codec_id: int
    name: str

    def encode(self, tensor: Array) -> bytes:
        """Encode `[tokens, kv_heads, dim]`, finite."""

    def decode(self, payload: bytes | memoryview, out: Array) -> None:
        """Decode into `out` (C-contiguous, of the declared shape and type).

        Raises:
            IntegrityError: the payload is not an encoding of a tensor of this shape and type. `out` is then undefined
                and must not be used.
        """


def check_finite(array: Array, data_type: DataType, name: str) -> None:
    """Refuse NaN and Inf in an array of this type.

    Raises:
        BadRequestError: it holds one; the message says `name`.
    """
    words, exponent = _EXPONENT_BITS[data_type]
    bits: Array = array.view(words)
    if bool(np.any((bits & exponent) == exponent)):
        raise BadRequestError(f"expected finite {name}; got NaN or Inf: compute it again")


def check_token_ids(token_ids: Sequence[int] | TokenIds, limit: int = MAX_CHUNK_TOKENS) -> TokenIds:
    """Return token ids as a uint32 array.

    Raises:
        BadRequestError: empty, more than `limit`, or outside 0..2**32-1.
    """
    try:
        array = np.asarray(token_ids)
        wide = array.astype(np.int64, casting="safe") if array.size else array
    except (TypeError, ValueError, OverflowError) as error:
        raise BadRequestError(f"expected whole numbers as token ids; got {error}") from None
    if array.ndim != 1 or not 1 <= array.size <= limit:
        raise BadRequestError(f"expected 1..{limit} token ids in one dimension; got shape {array.shape}")
    if wide.min() < 0 or wide.max() > MAX_TOKEN_ID:
        raise BadRequestError(f"expected token ids in 0..{MAX_TOKEN_ID}; got {wide.min()}..{wide.max()}")
    return np.ascontiguousarray(wide, dtype=np.uint32)
