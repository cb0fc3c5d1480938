"""Codec 7: every bit comes back, nothing grows by more than a byte, and KV-like tensors shrink."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.section.exponents import ExponentsRans
from kvquilt_codec.section.normal_tables import OCTAVES, TABLES
from kvquilt_codec.types import Array, DataType
from kvquilt_kernels.entropy import frequencies_from_weights
from tests.codec.samples import BIT_TYPES, bits
from tests.kernels.blocks import BACKENDS

CODEC = ExponentsRans()
BITS = {DataType.BFLOAT16: 10.5, DataType.FLOAT16: 13.5, DataType.FLOAT32: 26.5}

data_types = pytest.mark.parametrize("data_type", list(DataType), ids=lambda data_type: data_type.value)


def restored(payload: bytes, like: Array) -> Array:
    out = np.full_like(like, 7)
    CODEC.decode(payload, out)
    return out


def normal(data_type: DataType, tokens: int = 256, channels: int = 192, seed: int = 0) -> Array:
    """Channels of their own mean and scale, as keys and values have."""
    rng = np.random.default_rng(seed)
    scale = 2.0 ** rng.uniform(-3, 3, channels)
    means = rng.normal(0, 1, channels) * scale
    return (means + scale * rng.standard_normal((tokens, channels))).astype(data_type.numpy).reshape(tokens, 3, -1)


@settings(deadline=None, max_examples=80)
@given(
    data_type=st.sampled_from(list(DataType)),
    tokens=st.integers(1, 70),
    heads=st.integers(1, 3),
    dim=st.integers(1, 40),
    kinds=st.lists(st.sampled_from(["any", "normal", "zero", "nan", "tiny", "constant"]), min_size=1, max_size=4),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bits_come_back_in_either_mode(
    data_type: DataType, tokens: int, heads: int, dim: int, kinds: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    word = BIT_TYPES[data_type.itemsize]
    size = 8 * data_type.itemsize
    made = {
        "any": rng.integers(0, 1 << size, (tokens, dim)).astype(word),
        "normal": rng.standard_normal((tokens, dim)).astype(data_type.numpy).view(word),
        "zero": np.zeros((tokens, dim), word),
        "nan": np.full((tokens, dim), (1 << size) - 1, word),
        "tiny": rng.integers(0, 3, (tokens, dim)).astype(word),
        "constant": np.broadcast_to(rng.integers(0, 1 << size, dim).astype(word), (tokens, dim)),
    }
    heads_bits = [made[kinds[head % len(kinds)]] for head in range(heads)]
    tensor = np.ascontiguousarray(np.stack(heads_bits, axis=1)).view(data_type.numpy)
    for payload in (CODEC.encode(tensor), CODEC.encode_coded(tensor)):
        assert bits(restored(payload, tensor)) == bits(tensor)
    assert len(CODEC.encode(tensor)) <= tensor.nbytes + 1


@data_types
def test_every_backend_writes_the_same_payload_and_reads_it(data_type: DataType) -> None:
    tensor = normal(data_type, 70, 24, seed=1)
    expected = CODEC.encode(tensor)
    assert expected[0] == 1
    for name, kernels in BACKENDS.items():
        codec, out = ExponentsRans(kernels), np.empty_like(tensor)
        assert codec.encode(tensor) == expected, name
        codec.decode(expected, out)
        assert bits(out) == bits(tensor), name


@data_types
def test_normally_distributed_channels_shrink_to_what_their_entropy_allows(data_type: DataType) -> None:
    tensor = normal(data_type)
    assert 8 * len(CODEC.encode(tensor)) / tensor.size < BITS[data_type]


@data_types
@pytest.mark.parametrize("value", [0.0, -0.0, 1.0, -(2.0**-10)])
def test_dead_channels_cost_next_to_nothing(data_type: DataType, value: float) -> None:
    """Zeros and powers of two have no mantissas to store."""
    tensor = np.full((256, 1, 128), value).astype(data_type.numpy)
    assert 8 * len(CODEC.encode(tensor)) / tensor.size < 0.3


def test_the_tables_are_those_of_normal_distributions() -> None:
    """As docs/formats.md describes them; the numbers themselves are the format."""

    def below(x: float) -> float:
        return 0.5 * math.erfc(-x / math.sqrt(2))

    for line, row in enumerate(TABLES.frequencies[:60]):
        ratio = (0, 0.35, 0.7, 1.05, 1.4, 1.8, 2.4, 3.4, 5, 8)[line // 6]
        deviation = 2 ** (line % 6 / 6) / (ratio + 2.8)
        mean, weights = ratio * deviation, []
        for octave in range(OCTAVES):
            for sign in (1, -1):
                low, high = sorted((sign * 2.0**-octave, sign * 2.0 ** (1 - octave)))
                weights.append(below((high - mean) / deviation) - below((low - mean) / deviation))
        expected = frequencies_from_weights(np.array([*weights, max(0.0, 1 - sum(weights))]))
        assert np.abs(row.astype(int) - expected).max() <= 1, line
    assert TABLES.frequencies[60].tolist() == [2024, *[1] * 24]
    assert TABLES.frequencies[61].tolist() == [104, *[81] * 24]


@data_types
def test_a_payload_cut_anywhere_or_of_another_shape_is_refused(data_type: DataType) -> None:
    tensor = normal(data_type, 40, 9, seed=3)
    for payload in (CODEC.encode_coded(tensor), b"\0" + tensor.tobytes()):
        for end in range(len(payload)):
            with pytest.raises(IntegrityError, match="expected"):
                restored(payload[:end], tensor)
        for other in (tensor[:39], tensor[:, :2], np.concatenate([tensor, tensor])):
            with pytest.raises(IntegrityError, match="expected"):
                restored(payload, np.ascontiguousarray(other))
