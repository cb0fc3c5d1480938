"""Joint coding with a profile: bounded error, any level and layer range from one container, exact outliers."""

import dataclasses
import itertools

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import ContainerDecoder, DecodedChunk
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError
from kvquilt_codec.joint import JointCoder, integers
from kvquilt_codec.joint.coder import joined
from kvquilt_codec.types import DataType, KVChunk, LayerShape, Level
from kvquilt_kernels.reference import ReferenceKernels
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, UNEVEN, UNIFORM, bits, chunk_identity, make_chunk

ROUNDING = {DataType.BFLOAT16: 2**-8, DataType.FLOAT16: 2**-10, DataType.FLOAT32: 2**-20}
CODER = make_coder(make_profile())


def encoded(chunk: KVChunk, coder: JointCoder) -> bytes:
    return container.encode(chunk, Level.HIGH, chunk_identity(chunk), coder)


def decoded(
    data: bytes, coder: JointCoder, layers: range | None = None, quality_layers: int | None = None
) -> DecodedChunk:
    return container.decode(data, FINGERPRINT, layers, quality_layers, lambda _: coder)


def worst_error(chunk: KVChunk, got: DecodedChunk, coder: JointCoder) -> float:
    """Largest L2 distance of a token's z in any layer, in units of what rounding to the fine step may cost."""
    worst = 0.0
    for index, kv in zip(got.layers, got.kv, strict=True):
        transform = coder.profile.layers[index]
        error = joined(chunk.keys[index], chunk.values[index]) - joined(kv.keys, kv.values)
        allowed = coder.profile.step / 2 * np.sqrt(transform.channels)
        rounding = ROUNDING[chunk.layout.data_type] * 4 * np.linalg.norm(transform.weight)
        worst = max(worst, (np.linalg.norm(error * transform.weight, axis=1).max() - rounding) / allowed)
    return worst


@given(
    tokens=st.integers(1, 40),
    shapes=st.sampled_from([UNIFORM, UNEVEN, (LayerShape(8, 4, 4),)]),
    data_type=st.sampled_from(list(DataType)),
    history=st.integers(0, 2),
    quality_layers=st.integers(1, 4),
)
def test_every_level_is_within_half_a_step_of_its_own(
    tokens: int,
    shapes: tuple[LayerShape, ...],
    data_type: DataType,
    history: int,
    quality_layers: int,
) -> None:
    coder = make_coder(make_profile(shapes, history=history, quality_layers=quality_layers))
    chunk = make_chunk(tokens, shapes, data_type, seed=tokens)
    data = encoded(chunk, coder)
    assert data == encoded(chunk, coder)
    for depth in range(1, quality_layers + 1):
        got = decoded(data, coder, quality_layers=depth)
        assert worst_error(chunk, got, coder) <= 1.02 * 3 ** (quality_layers - depth)
        assert got.token_ids.tolist() == chunk.token_ids.tolist()


@pytest.mark.parametrize("tokens", [255, 256, 257, 600])
def test_chunks_of_several_token_blocks(tokens: int) -> None:
    chunk = make_chunk(tokens)
    assert worst_error(chunk, decoded(encoded(chunk, CODER), CODER), CODER) <= 1.02


@pytest.mark.parametrize("history", [0, 1, 2])
def test_any_layer_range_at_any_level_is_the_same_from_its_byte_ranges(history: int) -> None:
    coder = make_coder(make_profile(UNEVEN, history=history))
    chunk = make_chunk(300, UNEVEN)
    data = encoded(chunk, coder)
    head = container.parse_head(data)
    for begin, end in itertools.combinations(range(len(UNEVEN) + 1), 2):
        for depth in (1, 2, 3):
            whole = decoded(data, coder, quality_layers=depth)
            ranges = head.byte_ranges(range(begin, end), depth)
            decoder = ContainerDecoder(FINGERPRINT, range(begin, end), depth, lambda _: coder)
            for piece in (data[: head.head_bytes], *(data[a:b] for a, b in ranges)):
                decoder.feed(piece)
            part = decoder.finish()
            for got, expected in zip(part.kv, whole.kv[begin:end], strict=True):
                assert bits(got.keys) == bits(expected.keys)
                assert bits(got.values) == bits(expected.values)


def test_a_coarser_level_needs_fewer_bytes_and_errs_more() -> None:
    chunk = make_chunk(300, data_type=DataType.FLOAT32)
    data = encoded(chunk, CODER)
    errors = [worst_error(chunk, decoded(data, CODER, quality_layers=depth), CODER) for depth in (1, 2, 3)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2] > 0
    head = container.parse_head(data)
    sizes = [sum(b - a for a, b in head.byte_ranges(range(3), depth)) for depth in (1, 2, 3)]
    assert sizes == sorted(set(sizes))
    assert head.head_bytes + sizes[-1] == head.total_bytes


def test_what_another_backend_decodes_differs_by_the_rounding_of_products_alone() -> None:
    chunk = make_chunk(300, data_type=DataType.FLOAT32)
    data = encoded(chunk, CODER)
    other = JointCoder(CODER.profile, CODER.digest, ReferenceKernels())
    for index, (ours, theirs) in enumerate(zip(decoded(data, CODER).kv, decoded(data, other).kv, strict=True)):
        difference = joined(ours.keys, ours.values) - joined(theirs.keys, theirs.values)
        assert np.abs(difference * CODER.profile.layers[index].weight).max() < CODER.profile.step / 20


def test_without_prediction_a_layer_needs_no_other() -> None:
    chunk = make_chunk(20)
    sizes = {}
    for history in (0, 2):
        head = container.parse_head(encoded(chunk, make_coder(make_profile(history=history))))
        parts = {(section.layer, section.quality_layer) for section in head.select(range(2, 3))}
        sizes[history] = {quality for layer, quality in parts if layer == 1}
    assert sizes == {0: set(), 2: {0}}


def test_bytes_may_arrive_in_pieces_of_any_size() -> None:
    data = encoded(make_chunk(270), CODER)
    expected = decoded(data, CODER)
    decoder = ContainerDecoder(FINGERPRINT, coders=lambda _: CODER)
    for begin in range(0, len(data), 101):
        decoder.feed(data[begin : begin + 101])
    for got, other in zip(decoder.finish().kv, expected.kv, strict=True):
        assert bits(got.keys) == bits(other.keys)


def test_outliers_are_exact_at_every_level_and_at_most_their_share() -> None:
    chunk = make_chunk(600)
    chunk.keys[2][[3, 299, 300, 599]] += np.float32(50)
    coder = make_coder(make_profile(distance=40.0))
    data = encoded(chunk, coder)
    assert coder.exact_rows(chunk).sum() == 3, "one for 256 tokens, rounded up"
    (exact,) = np.nonzero(coder.exact_rows(chunk))
    assert set(exact) <= {3, 299, 300, 599}
    for depth in (1, 2, 3):
        for got, keys, values in zip(
            decoded(data, coder, quality_layers=depth).kv, chunk.keys, chunk.values, strict=True
        ):
            assert bits(got.keys[exact]) == bits(keys[exact])
            assert bits(got.values[exact]) == bits(values[exact])


@pytest.mark.parametrize("huge", [1e6, 1e20, 3e38, -3e38])
def test_what_the_integers_cannot_hold_is_stored_exactly(huge: float) -> None:
    chunk = make_chunk(30, data_type=DataType.FLOAT32)
    chunk.values[1][7, 0, 3] = huge
    got = decoded(encoded(chunk, CODER), CODER)
    limit = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)
    stored = chunk.values[1][7].clip(-limit, limit).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert bits(got.kv[1].values[7]) == bits(stored), "a float32 container keeps exact tokens in bfloat16"
    chunk.values[1][7] = stored
    assert worst_error(chunk, got, CODER) <= 1.02


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0])
def test_constant_tensors(value: float) -> None:
    chunk = make_chunk(20)
    for tensor in (*chunk.keys, *chunk.values):
        tensor[...] = value
    assert worst_error(chunk, decoded(encoded(chunk, CODER), CODER), CODER) <= 1.02


def test_what_a_profile_is_not_for_is_refused() -> None:
    with pytest.raises(BadRequestError, match="profile's shapes"):
        encoded(make_chunk(shapes=UNEVEN), CODER)
    with pytest.raises(BadRequestError, match="un-rotated"):
        encoded(make_chunk(rotated_from=0), CODER)
    chunk = make_chunk()
    chunk.keys[0][0] = np.nan
    with pytest.raises(BadRequestError, match="finite"):
        encoded(chunk, CODER)


def test_a_reader_needs_the_profile_that_the_header_names() -> None:
    data = encoded(make_chunk(), CODER)
    with pytest.raises(NotFoundError, match=CODER.digest[:16]):
        container.decode(data, FINGERPRINT)
    with pytest.raises(IntegrityError, match="profile's model"):
        decoded(data, make_coder(make_profile(seed=1)))
    with pytest.raises(IntegrityError, match="profile's model"):
        decoded(data, JointCoder(dataclasses.replace(CODER.profile, model_fingerprint="f" * 64), CODER.digest))
    with pytest.raises(IntegrityError, match="quality layers"):
        decoded(data, JointCoder(make_profile(quality_layers=2), CODER.digest))
    with pytest.raises(BadRequestError, match=r"1\.\.3 quality layers"):
        decoded(data, CODER, quality_layers=4)
    assert container.verify(data).quality_layers == 3, "checksums need no profile"


@given(st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=30), st.integers(2, 4))
def test_rounding_to_a_fine_step_and_then_by_thirds_is_rounding_to_the_coarse_step(
    values: list[float], quality_layers: int
) -> None:
    coarseness = 3 ** (quality_layers - 1)
    fine = np.rint(np.array(values)).astype(np.int32)
    nested = integers.nested(fine, quality_layers)
    assert nested[-1] is fine
    expected = np.rint(fine / coarseness).astype(np.int32)  # no integer is half way between multiples of an odd number
    assert nested[0].tolist() == expected.tolist()
    for finer, coarser in itertools.pairwise(reversed(nested)):
        assert np.abs(finer - 3 * coarser).max() <= 1
