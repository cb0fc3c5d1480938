"""Side information of a variant: what is stored comes back within half a step, and costs little."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import container
from kvquilt_codec.container import ContainerDecoder, HeldContainer
from kvquilt_codec.container.side import STEPS_PER_OCTAVE, decode_side, encode_side
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.types import DataType, KVLayout, LayerShape, Level, SideInfo
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import FINGERPRINT, UNEVEN, UNIFORM, bits, chunk_identity, make_chunk, make_side

HALF_A_STEP = 2 ** (0.5 / STEPS_PER_OCTAVE) - 1
CODER = make_coder(make_profile())
CHUNK = make_chunk(300)
SIDE = make_side(CHUNK)
WITHOUT = container.encode(CHUNK, Level.HIGH, chunk_identity(CHUNK), CODER)
DATA = container.encode(CHUNK, Level.HIGH, chunk_identity(CHUNK), CODER, SIDE)


def assert_near(got: SideInfo | None, side: SideInfo) -> None:
    """Within half a step, where the value is not below the smallest step of its maximum; zeros are zeros."""
    assert got is not None
    for name in ("dependence", "inter"):
        one, other = getattr(side, name), getattr(got, name)
        assert (one is None) == (other is None), name
        if one is None:
            continue
        assert other.dtype == np.float32
        assert other.shape == one.shape
        assert ((other == 0) == (one == 0)).all()
        axes = (1, 2) if one.ndim == 3 else 0
        floor = one.max(axis=axes, keepdims=True) * 2.0 ** (-254 / STEPS_PER_OCTAVE)
        error = np.abs(other.astype(np.float64) - one)
        assert (error <= np.where(one > 0, np.maximum(one * HALF_A_STEP * 1.0001, floor), 0)).all()


@settings(deadline=None, max_examples=60)
@given(
    shapes=st.sampled_from([UNIFORM, UNEVEN]),
    tokens=st.integers(1, 300),
    spread=st.floats(0, 4),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
    parts=st.sampled_from([(True, True), (True, False), (False, True)]),
)
def test_values_of_any_spread_come_back_within_half_a_step(
    shapes: tuple[LayerShape, ...], tokens: int, spread: float, zeros: float, seed: int, parts: tuple[bool, bool]
) -> None:
    made = make_side(make_chunk(tokens, shapes), spread=spread, zeros=zeros, seed=seed)
    side = SideInfo(made.dependence if parts[0] else None, made.inter if parts[1] else None)
    layout = KVLayout(DataType.BFLOAT16, shapes)
    payload = encode_side(side, layout, tokens)
    assert_near(decode_side(payload, layout, tokens, 1 << 20), side)
    assert payload == encode_side(side, layout, tokens), "equal inputs give equal bytes"


def test_it_takes_at_most_a_twenty_fifth_of_level_high_of_the_demo_model() -> None:
    """SmolLM2-135M: 30 layers of 3 KV heads of 64, at the 2.36 bits per element of its profile's level `high`."""
    tokens = 512
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(3, 64, 64),) * 30)
    assert layout.elements_per_token == 11_520
    chunk = make_chunk(tokens, (LayerShape(3, 1, 1),) * 30)
    for spread in (0.5, 1.0, 2.0):
        payload = encode_side(make_side(chunk, spread=spread), layout, tokens)
        assert len(payload) + 32 <= 0.04 * tokens * layout.elements_per_token * 2.36 / 8, spread


def test_every_reader_from_quality_layer_0_gets_all_of_it_whichever_layers_it_reads() -> None:
    head = container.parse_head(DATA)
    assert len(DATA) - len(WITHOUT) < 3 * 2 * 300 + 300 + 200
    for layers, depth in itertools.product((range(3), range(1), range(2, 3)), (1, 3)):
        decoder = ContainerDecoder(FINGERPRINT, layers, depth, lambda _: CODER)
        decoder.feed(DATA[: head.head_bytes])
        for begin, end in head.byte_ranges(layers, depth):
            decoder.feed(DATA[begin:end])
        got = decoder.finish()
        assert_near(got.side, SIDE)
        plain = container.decode(WITHOUT, FINGERPRINT, layers, depth, lambda _: CODER)
        assert plain.side is None
        assert [bits(kv.keys) for kv in got.kv] == [bits(kv.keys) for kv in plain.kv]


def test_it_survives_an_upgrade_to_a_finer_level() -> None:
    head = container.parse_head(DATA)

    def sent(depth: int, held: int = 0) -> bytes:
        return DATA[: head.head_bytes] + b"".join(DATA[a:b] for a, b in head.byte_ranges(range(3), depth, held))

    held = HeldContainer.received(sent(1), FINGERPRINT, None, 1)
    assert_near(held.decode(lambda _: CODER).side, SIDE)
    finer = held.extended(sent(3, 1), 3)
    assert_near(finer.decode(lambda _: CODER).side, SIDE)
    assert finer.nbytes == len(DATA), "the section is sent once"


def test_every_form_holds_it() -> None:
    chunk = make_chunk(3, (LayerShape(1, 2, 2),))
    side = make_side(chunk)
    for level in (Level.LOSSLESS, Level.HIGH):
        data = container.encode(chunk, level, chunk_identity(chunk), side=side)
        assert_near(container.decode(data, FINGERPRINT).side, side)
        container.verify(data)


def changed(name: str, value: float, place: tuple[int, ...]) -> SideInfo:
    made = make_side(CHUNK)
    getattr(made, name)[place] = value
    return made


@pytest.mark.parametrize(
    ("side", "message"),
    [
        *[(changed("dependence", bad, (1, 0, 7)), "dependence finite") for bad in (np.nan, np.inf, -1.0)],
        *[(changed("inter", bad, (7,)), "inter finite") for bad in (np.nan, np.inf, -1.0)],
        (changed("inter", 1.01, (7,)), "inter in 0..1"),
        (SideInfo(), "got neither"),
        (SideInfo(SIDE.dependence[:2]), "dependence as float32"),
        (SideInfo(SIDE.dependence.astype(np.float64)), "dependence as float32"),
        (SideInfo(None, SIDE.inter[1:]), "inter as float32"),
    ],
)
def test_what_cannot_be_is_refused_at_encoding(side: SideInfo, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        container.encode(CHUNK, Level.HIGH, chunk_identity(CHUNK), side=side)


def test_heads_that_a_layer_has_not_hold_zeros_and_cost_at_most_what_the_kv_does() -> None:
    chunk = make_chunk(4, UNEVEN)
    side = make_side(chunk)
    side.dependence[0, 2, 1] = 1
    with pytest.raises(BadRequestError, match="heads that a layer has not"):
        encode_side(side, chunk.layout, 4)
    uneven = KVLayout(DataType.BFLOAT16, (LayerShape(64, 1, 1), *[LayerShape(1, 1, 1)] * 9))
    with pytest.raises(BadRequestError, match="no larger than the KV itself"):
        encode_side(SideInfo(np.zeros((10, 64, 4), np.float32)), uneven, 4)


def test_a_rounding_error_above_one_is_one_and_zeros_of_either_sign_are_zero() -> None:
    layout = CHUNK.layout
    inter = np.full(300, -0.0, np.float32)
    assert decode_side(encode_side(SideInfo(None, inter), layout, 300), layout, 300, 0).inter.max() == 0
    inter[3] = 1.0000004
    assert decode_side(encode_side(SideInfo(None, inter), layout, 300), layout, 300, 0).inter[3] == 1


def test_no_more_is_allocated_than_was_allowed() -> None:
    payload = encode_side(SIDE, CHUNK.layout, 300)
    size = SIDE.dependence.nbytes
    assert decode_side(payload, CHUNK.layout, 300, size).dependence.shape == SIDE.dependence.shape
    with pytest.raises(IntegrityError, match="cannot hold"):
        decode_side(payload, CHUNK.layout, 300, size - 1)
