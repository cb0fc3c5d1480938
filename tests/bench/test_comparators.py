"""No comparator is crippled: each keeps the bits it should, and what comes back is as near as its intervals promise."""

import sys
from pathlib import Path

import numpy as np
import pytest

import bench_codec
import chart
from comparators import lmcache_cachegen
from comparators.cachegen_paper import GROUP, CacheGenPaper
from comparators.fp8 import Fp8
from comparators.groups import TokenGroups
from comparators.kivi import Kivi
from comparators.kvquilt_levels import WithoutProfile
from comparators.plain import Bf16, Zstd
from comparators.types import BFLOAT16, Context, Stored
from comparators.uniform import pack, unpack
from kvquilt_codec.errors import UnavailableError
from kvquilt_codec.types import DataType, KVChunk, KVLayout, LayerShape, Level

LAYOUT = KVLayout(DataType.BFLOAT16, (LayerShape(3, 64, 64),) * 3)
ROUNDING = 2.0**-8
"""bfloat16 has 8 significant bits: what comes back is rounded by at most this share."""


def context(tokens: int, seed: int = 0) -> Context:
    """Channels of very different offsets and widths, slowly changing from token to token, as keys have them."""
    rng = np.random.default_rng(seed)
    offsets, widths = np.random.default_rng(99).normal(size=(2, 3, 64)) * np.array([4, 2])[:, None, None]
    summed = rng.normal(size=(6, tokens + 16, 3, 64)).cumsum(axis=1)
    slow = (summed[:, 16:] - summed[:, :-16]) / 4
    tensors = ((slow + rng.normal(size=slow.shape) / 4) * np.abs(widths) + offsets).astype(BFLOAT16)
    ids = np.arange(tokens, dtype=np.uint32)

    def chunk(rotated_from):
        return KVChunk(LAYOUT, ids, tuple(tensors[:3]), tuple(tensors[3:]), rotated_from)

    return Context(chunk(0), chunk(None))


def through(comparator, given: Context) -> tuple[Stored, list[np.ndarray], list[np.ndarray]]:
    """What is stored, and the tensors (keys, then values) before and after, in float32."""
    stored = comparator.encode(given)
    back = comparator.decode(stored, given.token_ids, given.layout)
    assert back.layout == given.layout
    before, after = ([a.astype(np.float32) for a in (*c.keys, *c.values)] for c in (given.rotated, back))
    return stored, before, after


def group_ranges(tensor: np.ndarray, group: int) -> np.ndarray:
    """Range of every group of so many channels of a token, at each of its elements."""
    grouped = tensor.reshape(-1, group)
    return np.broadcast_to(np.ptp(grouped, axis=1)[:, None], grouped.shape).reshape(tensor.shape)


@pytest.mark.parametrize("comparator", [Bf16(), Zstd(), WithoutProfile(Level.LOSSLESS, "0" * 64)])
def test_lossless_methods_give_back_every_bit_and_zstd_takes_less(comparator):
    given = context(300)
    stored, before, after = through(comparator, given)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    assert stored.bits <= 16 * given.elements
    assert (stored.bits < 16 * given.elements) == (type(comparator) is not Bf16)


def test_fp8_keeps_three_bits_of_mantissa_in_eight_bits_and_saturates():
    given = context(64)
    given.rotated.keys[0][0, 0, 0] = 1000
    stored, before, after = through(Fp8(), given)
    assert stored.bits == 8 * given.elements
    assert after[0][0, 0, 0] == 448
    before[0][0, 0, 0] = 448
    for a, b in zip(before, after, strict=True):
        assert (np.abs(a - b) <= np.maximum(np.abs(a) * 2.0**-4, 2.0**-10)).all()


@pytest.mark.parametrize("bits", [8, 4])
def test_groups_err_by_at_most_half_an_interval(bits: int):
    given = context(100)
    stored, before, after = through(TokenGroups(bits), given)
    assert stored.bits == (bits + 32 / 64) * given.elements
    for a, b in zip(before, after, strict=True):
        half = group_ranges(a, 64) / (2**bits - 1) / 2
        assert (np.abs(a - b) <= 1.1 * half + 2 * ROUNDING * np.abs(a).max()).all()
        assert np.abs(a - b).mean() < 0.6 * half.mean() + ROUNDING * np.abs(a).max()


@pytest.mark.parametrize("bits", [4, 2])
def test_kivi_keeps_the_latest_tokens_and_quantises_keys_by_channel(bits: int):
    tokens = 128 + 128 + 40
    given = context(tokens)
    stored, before, after = through(Kivi(bits), given)
    for a, b in zip(before[:3], after[:3], strict=True):
        assert np.array_equal(a[256:], b[256:])
        grouped = a[:256].reshape(8, 32, 3, 64)
        half = np.ptp(grouped, axis=1, keepdims=True) / (2**bits - 1) / 2
        error = np.abs(grouped - b[:256].reshape(grouped.shape))
        assert (error <= 1.1 * half + 2 * ROUNDING * np.abs(grouped).max(axis=1, keepdims=True)).all()
        assert error.max() > 0
    for a, b in zip(before[3:], after[3:], strict=True):
        assert np.array_equal(a[tokens - 128 :], b[tokens - 128 :])
        half = group_ranges(a, 32) / (2**bits - 1) / 2
        assert (np.abs(a - b) <= 1.1 * half + 2 * ROUNDING * np.abs(a).max()).all()
    each = bits + 32 / 32
    quantised = (256 + tokens - 128) / 2
    assert stored.bits / given.elements == pytest.approx((quantised * each + (tokens - quantised) * 16) / tokens)


def test_kivi_keeps_a_short_context_whole():
    _, before, after = through(Kivi(2), context(100))
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_codes_come_back(bits: int):
    codes = np.random.default_rng(3).integers(0, 1 << bits, 96, dtype=np.uint8)
    packed = pack(codes, bits)
    assert len(packed) == 96 * bits // 8
    assert np.array_equal(unpack(packed, bits), codes)


@pytest.fixture(scope="module")
def cachegen() -> CacheGenPaper:
    return CacheGenPaper([context(500, seed) for seed in range(1, 5)])


def test_cachegen_of_the_paper_errs_by_at_most_half_an_interval(cachegen):
    _, before, after = through(cachegen, context(308))
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        layer, part = index % 3, index // 3
        width = cachegen._coders[2 * layer + part].width
        anchors = np.abs(a[::GROUP]).max(axis=(1, 2)) / 127 / 2
        rounded = 2 * ROUNDING * np.abs(a).max()
        assert (np.abs(a - b)[::GROUP] <= 1.1 * anchors[:, None, None] + rounded).all()
        assert (np.abs(a - b) <= np.maximum(width / 2, 1.1 * anchors.max()) + rounded).all()
    widths = [coder.width for coder in cachegen._coders[::2]]
    assert widths[0] < widths[1] < widths[2]


def test_cachegen_of_the_paper_charges_what_its_own_distributions_say(cachegen):
    """The tables are probabilities, and coding texts of their kind takes little more than the texts' own entropy."""
    for coder in cachegen._coders:
        for table in (coder.anchor_bits, coder.delta_bits):
            assert np.exp2(-table).sum(axis=1) == pytest.approx(1)
    given = context(2000, 7)
    bits = cachegen.encode(given).bits / given.elements
    own = CacheGenPaper([given]).encode(given).bits / given.elements
    finer = CacheGenPaper([context(500, seed) for seed in range(1, 5)], 0.5).encode(given).bits / given.elements
    assert own < bits < 1.15 * own
    assert bits + 0.6 < finer < bits + 1.1


@pytest.mark.parametrize("python", [Path("/nowhere/python"), Path(sys.executable)])
def test_without_lmcache_its_rows_say_so(python: Path):
    with pytest.raises(UnavailableError):
        lmcache_cachegen.version(python)
    rows, why = bench_codec.lmcache_rows(python, [], lambda name: None)
    assert [row["method"] for row in rows] == ["LMCache CacheGen"] * 2
    assert all("NOT MEASURED" in row["level"] and row["kl"] is None for row in rows)
    assert why.startswith("not measured: expected LMCache")


def test_the_chart_passes_over_what_was_not_measured(tmp_path: Path):
    rows = [bench_codec.empty_row("a", "1"), bench_codec.empty_row("b", "2") | {"bits_per_element": 4.0, "kl": 0.1}]
    chart.draw(rows, "condition", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_the_effect_of_rounding_is_small_and_that_of_no_context_large(smollm2, passages):
    from effect import Judge
    from kvquilt_router.calibration import Piece

    judge = Judge(smollm2, Piece(smollm2.tokenise("".join(passages))[:160]))
    rotated, unrotated = judge.judge(judge.context.rotated), judge.judge(judge.context.unrotated)
    nothing = judge.judge(None)
    assert judge.full.kl == 0
    assert judge.full.top1_agreement == 1
    assert 0 < rotated.kl < 1e-3
    assert 0 < unrotated.kl < 1e-3
    assert nothing.kl > 0.05
    assert nothing.log_loss > judge.full.log_loss
    assert judge.full.log_loss == pytest.approx(rotated.log_loss, abs=0.01)
