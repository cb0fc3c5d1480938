"""Every way of coding with every shape, element type and kind of content that models have."""

from functools import cache

import ml_dtypes
import numpy as np
import pytest

from kvquilt_codec import container
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import Array, DataType, KVChunk, KVLayout, LayerShape, Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, assert_within_half_a_step, bits, make_chunk, make_container
from tests.codec.test_joint import worst_error

HEAD_DIMS = (64, 80, 96, 128, 256)
NARROW = (LayerShape(2, 8, 8), LayerShape(1, 16, 4), LayerShape(3, 4, 6))
"""Layers that differ in heads and dimensions, as models with sliding windows may have them."""
CODINGS = ("lossless", "high", "joint", "joint, predicted")

codings = pytest.mark.parametrize("coding", CODINGS)
data_types = pytest.mark.parametrize("data_type", list(DataType), ids=lambda data_type: data_type.value)


@cache
def coder(coding: str, shapes: tuple[LayerShape, ...]) -> JointCoder | None:
    """The coder of a joint coding, of a small random profile."""
    if coding in ("lossless", "high"):
        return None
    return make_coder(make_profile(shapes, history=0 if coding == "joint" else 2, quality_layers=2))


def encoded(chunk: KVChunk, coding: str) -> bytes:
    """The chunk's container."""
    level = Level.LOSSLESS if coding == "lossless" else Level.HIGH
    return make_container(chunk, level, coder=coder(coding, chunk.layout.layers))


def promised(chunk: KVChunk, profile: JointCoder) -> KVChunk:
    """The chunk with its exact tokens as they are stored: of float32, the nearest finite bfloat16."""
    if chunk.layout.data_type is not DataType.FLOAT32:
        return chunk
    exact, limit = profile.exact_rows(chunk), float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)

    def stored(tensor: Array) -> Array:
        copy = tensor.copy()
        copy[exact] = tensor[exact].clip(-limit, limit).astype(ml_dtypes.bfloat16)
        return copy

    return KVChunk(chunk.layout, chunk.token_ids, tuple(map(stored, chunk.keys)), tuple(map(stored, chunk.values)))


def check(chunk: KVChunk, coding: str) -> None:
    """What comes back is what the coding promises of what was stored."""
    profile = coder(coding, chunk.layout.layers)
    got = container.decode(encoded(chunk, coding), FINGERPRINT, coders=lambda _: profile)
    assert bits(got.token_ids) == bits(chunk.token_ids)
    got.chunk().check_finite()
    if profile is not None:
        assert worst_error(promised(chunk, profile), got, profile) <= 1.02
        return
    for layer, keys, values in zip(got.kv, chunk.keys, chunk.values, strict=True):
        for original, restored in ((keys, layer.keys), (values, layer.values)):
            if coding == "lossless":
                assert bits(restored) == bits(original)
            else:
                assert_within_half_a_step(original, restored, chunk.layout.data_type)


@data_types
@pytest.mark.parametrize("kv_heads", range(1, 9))
@pytest.mark.parametrize("head_dim", HEAD_DIMS)
def test_heads_and_dimensions_without_a_profile(head_dim: int, kv_heads: int, data_type: DataType) -> None:
    shapes = (
        LayerShape(kv_heads, head_dim, head_dim),
        LayerShape(9 - kv_heads, head_dim // 2, head_dim),
        LayerShape(1, head_dim, 1),
    )
    for coding in ("lossless", "high"):
        check(make_chunk(33, shapes, data_type, seed=kv_heads), coding)


@pytest.mark.parametrize(
    ("kv_heads", "key_dim", "value_dim"), [(1, 256, 256), (2, 128, 64), (3, 80, 80), (1, 96, 128), (8, 64, 8)]
)
@pytest.mark.parametrize("coding", CODINGS[2:])
def test_heads_and_dimensions_with_a_profile(coding: str, kv_heads: int, key_dim: int, value_dim: int) -> None:
    shapes = (LayerShape(kv_heads, key_dim, value_dim), LayerShape(1, 64, 32))
    for data_type in DataType:
        check(make_chunk(33, shapes, data_type), coding)


@data_types
@codings
@pytest.mark.parametrize("tokens", [1, 2, 257])
def test_lengths(coding: str, tokens: int, data_type: DataType) -> None:
    check(make_chunk(tokens, NARROW, data_type, seed=tokens), coding)


def contents(kind: str, shape: tuple[int, ...], data_type: DataType, rng: np.random.Generator) -> Array:
    """Finite tensors of every kind that has been trouble somewhere."""
    normal = rng.standard_normal(shape).astype(np.float32)
    finfo = ml_dtypes.finfo(data_type.numpy)
    match kind:
        case "zeros":
            normal[...] = 0
        case "negative zeros":
            normal[...] = -0.0
        case "a constant":
            normal[...] = -3.0
        case "dead channels":
            normal[..., ::2] = 0
        case "mostly dead tokens":
            normal[1:] = 0
        case "denormals":
            return (np.sign(normal) * float(finfo.smallest_subnormal) * rng.integers(0, 4, shape)).astype(
                data_type.numpy
            )
        case "one huge value":
            normal[len(normal) // 2, 0, 0] = 10_000
        case "the largest":
            normal[0, 0] = float(finfo.max)
            normal[-1, -1] = -float(finfo.max)
    return normal.astype(data_type.numpy)


KINDS = (
    "zeros",
    "negative zeros",
    "a constant",
    "dead channels",
    "mostly dead tokens",
    "denormals",
    "one huge value",
    "the largest",
)


@data_types
@codings
@pytest.mark.parametrize("kind", KINDS)
def test_contents(coding: str, kind: str, data_type: DataType) -> None:
    rng = np.random.default_rng(1)
    for tokens in (1, 70):
        chunk = KVChunk(
            KVLayout(data_type, NARROW),
            np.arange(tokens, dtype=np.uint32),
            tuple(contents(kind, (tokens, layer.kv_heads, layer.key_dim), data_type, rng) for layer in NARROW),
            tuple(contents(kind, (tokens, layer.kv_heads, layer.value_dim), data_type, rng) for layer in NARROW),
        )
        check(chunk, coding)


@data_types
@codings
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused_by_every_coding(coding: str, bad: float, data_type: DataType) -> None:
    chunk = make_chunk(3, NARROW, data_type)
    chunk.values[1][2, 0, 3] = bad
    with pytest.raises(BadRequestError, match="finite values of layer 1"):
        encoded(chunk, coding)
