"""Tensors to a container and back: lossless to the bit, int8 within half a step."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import Array, DataType, KVChunk, KVLayout, LayerShape, Level
from tests.codec.samples import (
    BIT_TYPES,
    FINGERPRINT,
    STORED,
    UNEVEN,
    UNIFORM,
    assert_within_half_a_step,
    bits,
    chunk_identity,
    make_chunk,
    make_container,
)

data_types = pytest.mark.parametrize("data_type", list(DataType), ids=lambda data_type: data_type.value)


def decoded(chunk: KVChunk, level: Level) -> KVChunk:
    return container.decode(make_container(chunk, level), FINGERPRINT).chunk()


def pairs(one: KVChunk, other: KVChunk) -> list[tuple[Array, Array]]:
    return list(zip((*one.keys, *one.values), (*other.keys, *other.values), strict=True))


@data_types
@pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)
@pytest.mark.parametrize("tokens", [1, 255, 256, 257, 600])
@pytest.mark.parametrize("shapes", [UNIFORM, UNEVEN], ids=["uniform", "uneven"])
@pytest.mark.parametrize("rotated_from", [None, 0, 2**31 - 1])
def test_what_is_stored_comes_back(
    data_type: DataType, level: Level, tokens: int, shapes: tuple[LayerShape, ...], rotated_from: int | None
) -> None:
    chunk = make_chunk(tokens, shapes, data_type, rotated_from=rotated_from)
    restored = decoded(chunk, level)
    assert restored.layout == chunk.layout
    assert restored.rotated_from == rotated_from
    assert bits(restored.token_ids) == bits(chunk.token_ids)
    for original, got in pairs(chunk, restored):
        assert got.flags.c_contiguous
        if level is Level.LOSSLESS:
            assert bits(got) == bits(original)
        else:
            assert_within_half_a_step(original, got, data_type)


@data_types
def test_lossless_keeps_every_finite_bit_pattern(data_type: DataType) -> None:
    """All 65,536 words of the 16-bit types, -0.0 and denormals included; of float32 as many, spread over its range."""
    word = np.arange(1 << 16, dtype=np.uint32)
    if data_type is DataType.FLOAT32:
        word = (word << 16) | (word ^ 0xA5A5)
    patterns = word.astype(BIT_TYPES[data_type.itemsize]).view(data_type.numpy)
    with np.errstate(invalid="ignore"):  # NumPy warns about the signalling NaNs among them
        finite = patterns[np.isfinite(patterns)]
    tensor = finite[: finite.size // 256 * 256].reshape(256, 1, -1)
    layout = KVLayout(data_type, (LayerShape(1, tensor.shape[2], tensor.shape[2]),))
    chunk = KVChunk(layout, np.arange(256, dtype=np.uint32), (tensor,), (tensor,))
    for original, got in pairs(chunk, decoded(chunk, Level.LOSSLESS)):
        assert bits(got) == bits(original)


@data_types
def test_int8_keeps_the_largest_finite_values_finite(data_type: DataType) -> None:
    largest = float(ml_dtypes.finfo(data_type.numpy).max)
    layout = KVLayout(data_type, (LayerShape(1, 4, 4),))
    row = np.array([largest, -largest, largest / 2, 0.0]).astype(data_type.numpy)
    tensor = np.tile(row, (3, 1, 1))
    chunk = KVChunk(layout, np.arange(3, dtype=np.uint32), (tensor,), (tensor,))
    for original, got in pairs(chunk, decoded(chunk, Level.HIGH)):
        assert_within_half_a_step(original, got, data_type)


@settings(deadline=None, max_examples=60)
@given(
    data_type=st.sampled_from(list(DataType)),
    exponent=st.integers(-40, 40),
    tokens=st.integers(1, 9),
    seed=st.integers(0, 2**32 - 1),
)
def test_int8_error_is_bounded_at_any_magnitude(data_type: DataType, exponent: int, tokens: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    limit = float(ml_dtypes.finfo(data_type.numpy).max)
    layout = KVLayout(data_type, (LayerShape(2, 7, 5),))

    def tensor(dim: int) -> Array:
        wide = rng.standard_normal((tokens, 2, dim)) * 10.0**exponent
        return np.clip(wide, -limit, limit).astype(data_type.numpy)

    chunk = KVChunk(layout, np.arange(tokens, dtype=np.uint32), (tensor(7),), (tensor(5),))
    for original, got in pairs(chunk, decoded(chunk, Level.HIGH)):
        assert_within_half_a_step(original, got, data_type)


@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -3.5])
@pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)
def test_constant_tensors_come_back_exactly(value: float, level: Level) -> None:
    layout = KVLayout(DataType.FLOAT32, (LayerShape(1, 127, 1),))
    keys, values = np.full((300, 1, 127), value, np.float32), np.full((300, 1, 1), value, np.float32)
    chunk = KVChunk(layout, np.arange(300, dtype=np.uint32), (keys,), (values,))
    tolerance = 0.0 if level is Level.LOSSLESS or value == 0 else abs(value) / 127
    for original, got in pairs(chunk, decoded(chunk, level)):
        np.testing.assert_allclose(got, original, rtol=0, atol=tolerance)


@data_types
@pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["keys", "values"])
def test_nan_and_inf_are_refused_naming_tensor_and_layer(
    data_type: DataType, level: Level, bad: float, name: str
) -> None:
    chunk = make_chunk(300, UNIFORM, data_type)
    getattr(chunk, name)[2][299, 1, 7] = bad
    with pytest.raises(BadRequestError, match=f"finite {name} of layer 2"):
        make_container(chunk, level)


@pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)
def test_equal_inputs_give_equal_bytes(level: Level) -> None:
    one, other = (make_container(make_chunk(300, UNEVEN, seed=3), level) for _ in range(2))
    assert one == other
    assert one != make_container(make_chunk(300, UNEVEN, seed=4), level)


def test_the_order_of_attributes_does_not_change_the_bytes() -> None:
    chunk = make_chunk()
    one, other = (
        container.encode(chunk, Level.HIGH, chunk_identity(chunk, attributes=dict(items)))
        for items in ((("a", "1"), ("b", "2")), (("b", "2"), ("a", "1")))
    )
    assert one == other


def test_encoding_does_not_need_contiguous_tensors() -> None:
    chunk = make_chunk(20)
    strided = tuple(np.asfortranarray(key) for key in chunk.keys)
    assert not strided[0].flags.c_contiguous
    again = KVChunk(chunk.layout, chunk.token_ids, strided, chunk.values)
    for level in STORED:
        assert make_container(again, level) == make_container(chunk, level)


def test_int8_takes_about_half_the_bytes_of_bfloat16() -> None:
    chunk = make_chunk(600, (LayerShape(4, 64, 64),) * 2)
    raw = chunk.layout.nbytes(600)
    assert len(make_container(chunk, Level.HIGH)) < 0.55 * raw
    assert len(make_container(chunk, Level.LOSSLESS)) < raw
