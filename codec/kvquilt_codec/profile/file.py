"""A profile as a file: safetensors, its metadata one JSON object. Addressed by the SHA-256 of its bytes.

Matrices are stored as float16, which halves the file; a profile must be used as it was loaded, not as it was made.
"""

import hashlib
from typing import Annotated

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.profile.types import (
    LayerTransform,
    LevelCard,
    Matrix,
    OutlierRule,
    Profile,
    QualityTables,
)
from kvquilt_codec.types import MAX_LAYERS, MAX_QUALITY_LAYERS
from kvquilt_kernels.entropy import FrequencyTables

FORMAT = 1
MAX_BYTES = 1 << 30
_METADATA = "kvquilt_profile"

Arrays = dict[str, "NDArray[np.generic]"]


class _Facts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the metadata holds beside the tensors."""

    format: int
    model_fingerprint: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    layers: Annotated[int, msgspec.Meta(ge=1, le=MAX_LAYERS)]
    quality_layers: Annotated[int, msgspec.Meta(ge=1, le=MAX_QUALITY_LAYERS)]
    step: float
    outliers: tuple[OutlierRule, ...]
    cards: tuple[LevelCard, ...]
    texts: Annotated[str, msgspec.Meta(max_length=4096)]


def dump(profile: Profile) -> bytes:
    """The file. Equal profiles give equal bytes."""
    arrays: Arrays = {}
    for index, layer in enumerate(profile.layers):
        arrays[f"{index}.mean"] = layer.mean.astype(np.float32)
        arrays[f"{index}.weight"] = layer.weight.astype(np.float32)
        arrays[f"{index}.basis"] = layer.basis.astype(np.float16)
        if layer.predictor is not None:
            arrays[f"{index}.predictor"] = layer.predictor.astype(np.float16)
    for depth, quality in enumerate(profile.quality):
        arrays[f"quality.{depth}.frequencies"] = quality.tables.frequencies
        for index, ids in enumerate(quality.table_ids):
            arrays[f"quality.{depth}.{index}.table_ids"] = ids
    facts = _Facts(
        FORMAT,
        profile.model_fingerprint,
        len(profile.layers),
        len(profile.quality),
        profile.step,
        profile.outliers,
        profile.cards,
        profile.texts,
    )
    ordered = {name: np.ascontiguousarray(arrays[name]) for name in sorted(arrays)}
    return save_tensors(ordered, {_METADATA: msgspec.json.encode(facts, order="sorted").decode()})


def rounded(transform: LayerTransform) -> LayerTransform:
    """A transform as its file gives it back."""

    def half(matrix: Matrix) -> Matrix:
        return matrix.astype(np.float16).astype(np.float32)

    predictor = None if transform.predictor is None else half(transform.predictor)
    return LayerTransform(transform.mean, transform.weight, half(transform.basis), predictor)


def digest(data: bytes) -> str:
    """Address of a profile: SHA-256 of its file, as hex."""
    return hashlib.sha256(data).hexdigest()


def load(data: bytes, expected_digest: str | None = None) -> Profile:
    """Read a file.

    Raises:
        IntegrityError: other bytes than the digest's, or not a profile.
    """
    if len(data) > MAX_BYTES:
        raise IntegrityError(f"expected a profile of at most {MAX_BYTES} bytes; got {len(data)}")
    if expected_digest is not None and digest(data) != expected_digest:
        raise IntegrityError("expected a profile of this digest; got other bytes", reason="checksum")
    try:
        facts = msgspec.json.decode(_metadata(data), type=_Facts)
        if facts.format != FORMAT:
            raise IntegrityError(f"expected profile format {FORMAT}; got {facts.format}", reason="unknown_version")
        arrays = load_tensors(data)
        profile = Profile(
            facts.model_fingerprint,
            tuple(_layer(arrays, index) for index in range(facts.layers)),
            facts.step,
            tuple(_quality(arrays, depth, facts.layers) for depth in range(facts.quality_layers)),
            facts.outliers,
            facts.cards,
            facts.texts,
        )
    except (msgspec.MsgspecError, SafetensorError, UnicodeDecodeError, ValueError, KeyError, BadRequestError) as error:
        # KeyError: what safetensors raises for a type that NumPy has not
        raise IntegrityError(f"expected a codec profile; got {error}") from None
    if arrays:
        raise IntegrityError(f"expected a codec profile; it has further tensors: {sorted(arrays)[:3]}")
    return profile


def _metadata(data: bytes) -> bytes:
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 + size:
        raise IntegrityError("expected a safetensors file; its header is cut")
    header = msgspec.json.decode(data[8 : 8 + size], type=dict[str, msgspec.Raw])
    named = msgspec.json.decode(header.get("__metadata__", msgspec.Raw(b"{}")), type=dict[str, str])
    return named.get(_METADATA, "").encode()


def _layer(arrays: Arrays, index: int) -> LayerTransform:
    predictor = f"{index}.predictor"
    return LayerTransform(
        _take(arrays, f"{index}.mean", np.float32, 1),
        _take(arrays, f"{index}.weight", np.float32, 1),
        _take(arrays, f"{index}.basis", np.float16, 2),
        _take(arrays, predictor, np.float16, 2) if predictor in arrays else None,
    )


def _quality(arrays: Arrays, depth: int, layers: int) -> QualityTables:
    frequencies = arrays.pop(f"quality.{depth}.frequencies", None)
    if frequencies is None:
        raise IntegrityError(f"expected tables of quality layer {depth} in a profile; it has none")
    ids = tuple(_bytes(arrays, f"quality.{depth}.{index}.table_ids") for index in range(layers))
    return QualityTables(FrequencyTables(frequencies.astype(frequencies.dtype, copy=False)), ids)


def _take(arrays: Arrays, name: str, dtype: type[np.generic], dimensions: int) -> "NDArray[np.float32]":
    array = arrays.pop(name, None)
    if array is None or array.dtype != dtype or array.ndim != dimensions:
        raise IntegrityError(f"expected a tensor {name} with {dimensions} dimensions in a profile; it has another")
    return np.ascontiguousarray(array, np.float32)


def _bytes(arrays: Arrays, name: str) -> "NDArray[np.uint8]":
    array = arrays.pop(name, None)
    if array is None or array.dtype != np.uint8 or array.ndim != 2:
        raise IntegrityError(f"expected a tensor {name} of table ids in a profile; it has another")
    return np.ascontiguousarray(array, np.uint8)
