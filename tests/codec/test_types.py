"""What cannot be a chunk is refused where it is made, with the layer and the shape in the message."""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import (
    MAX_CHUNK_TOKENS,
    MAX_HEAD_DIM,
    MAX_KV_HEADS,
    MAX_LAYERS,
    DataType,
    KVChunk,
    KVLayout,
    LayerShape,
    Part,
    check_token_ids,
)
from tests.codec.samples import UNEVEN, make_chunk


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((0, 1, 1), "kv_heads"),
        ((MAX_KV_HEADS + 1, 1, 1), "kv_heads"),
        ((1, 0, 1), "key_dim"),
        ((1, MAX_HEAD_DIM + 1, 1), "key_dim"),
        ((1, 1, -1), "value_dim"),
        ((1, 1, MAX_HEAD_DIM + 1), "value_dim"),
    ],
)
def test_layer_shapes_beyond_the_limits_are_refused(shape: tuple[int, int, int], message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        LayerShape(*shape)


@pytest.mark.parametrize("layers", [0, MAX_LAYERS + 1])
def test_a_layout_has_one_to_1024_layers(layers: int) -> None:
    with pytest.raises(BadRequestError, match=f"got {layers}"):
        KVLayout(DataType.FLOAT16, (LayerShape(1, 1, 1),) * layers)


def test_a_layout_counts_its_bytes() -> None:
    layout = KVLayout(DataType.FLOAT32, UNEVEN)
    per_layer = [1 * (4 + 6), 3 * (2 + 2), 2 * (1 + 5), 1 * (16 + 1)]
    assert layout.elements_per_token == sum(per_layer)
    assert layout.nbytes(7) == 7 * sum(per_layer) * 4
    assert layout.nbytes(7, range(1, 3)) == 7 * sum(per_layer[1:3]) * 4
    assert UNEVEN[0].of(Part.KEYS, 7) == (7, 1, 4)
    assert UNEVEN[0].of(Part.VALUES, 7) == (7, 1, 6)


@pytest.mark.parametrize(("data_type", "itemsize"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_data_types_are_those_of_numpy(data_type: str, itemsize: int) -> None:
    assert DataType(data_type).itemsize == DataType(data_type).numpy.itemsize == itemsize
    assert DataType(data_type).numpy.name == data_type


@pytest.mark.parametrize(
    "token_ids",
    [
        [],
        [-1],
        [2**32],
        [[1, 2]],
        [1.5],
        ["a"],
        [None],
        [1, [2]],
        np.zeros(MAX_CHUNK_TOKENS + 1, np.uint32),
        np.array([1.0, 2.0], np.float32),
        np.array([-5], np.int64),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_are_no_token_ids_is_refused(token_ids: Any) -> None:
    with pytest.raises(BadRequestError, match="token ids"):
        check_token_ids(token_ids)


@pytest.mark.parametrize("given", [[0, 2**32 - 1], np.array([0, 2**32 - 1], np.int64), (0, 2**32 - 1)])
def test_token_ids_come_out_as_uint32(given: Any) -> None:
    checked = check_token_ids(given)
    assert checked.dtype == np.uint32
    assert checked.tolist() == [0, 2**32 - 1]


def test_a_chunk_takes_token_ids_of_any_whole_type_and_holds_uint32() -> None:
    chunk = make_chunk(3)
    for given in ([1, 2, 3], np.array([1, 2, 3], np.int64)):
        made = dataclasses.replace(chunk, token_ids=given)
        assert made.token_ids.dtype == np.uint32
        assert made.token_ids.tolist() == [1, 2, 3]


@pytest.mark.parametrize("rotated_from", [-1, 2**31])
def test_positions_beyond_31_bits_are_refused(rotated_from: int) -> None:
    with pytest.raises(BadRequestError, match="rotated_from"):
        make_chunk(rotated_from=rotated_from)


def test_arrays_that_differ_from_the_layout_are_refused_with_the_layer_named() -> None:
    chunk = make_chunk(4, UNEVEN)

    def with_keys(layer: int, array: Any) -> None:
        keys = (*chunk.keys[:layer], array, *chunk.keys[layer + 1 :])
        KVChunk(chunk.layout, chunk.token_ids, keys, chunk.values)

    for layer, key in enumerate(chunk.keys):
        for wrong in (
            key[:-1],
            key[:, :, :-1] if key.shape[2] > 1 else np.repeat(key, 2, axis=2),
            key.reshape(-1),
            key.astype(np.float32),
            key.view(np.float16),
            key.astype(ml_dtypes.float8_e4m3),
        ):
            with pytest.raises(BadRequestError, match=f"keys of layer {layer}"):
                with_keys(layer, wrong)


def test_a_missing_or_additional_layer_is_refused() -> None:
    chunk = make_chunk(4)
    for keys, values in (
        (chunk.keys[:-1], chunk.values),
        ((*chunk.keys, chunk.keys[0]), chunk.values),
        (chunk.keys, chunk.values[:-1]),
        ((), ()),
    ):
        with pytest.raises(BadRequestError, match="of 3 layers; got"):
            KVChunk(chunk.layout, chunk.token_ids, keys, values)


def test_another_number_of_tokens_than_the_arrays_hold_is_refused() -> None:
    chunk = make_chunk(4)
    with pytest.raises(BadRequestError, match="keys of layer 0"):
        dataclasses.replace(chunk, token_ids=chunk.token_ids[:-1])
