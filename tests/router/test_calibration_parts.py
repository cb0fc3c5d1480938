"""The parts of calibration that need no model: texts, the search for a step, integers, tables and outliers."""

import logging

import numpy as np
import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint.exact import mark
from kvquilt_codec.joint.integers import nested
from kvquilt_codec.joint.layer import Quantised
from kvquilt_codec.profile import OutlierRule
from kvquilt_codec.types import DataType, KVChunk, KVLayout, LayerShape
from kvquilt_router.calibration import Text, cut
from kvquilt_router.calibration.gather import Gathered
from kvquilt_router.calibration.outliers import choose_rules, mark_all, trimmed_mean
from kvquilt_router.calibration.search import find_step
from kvquilt_router.calibration.sensitivity import Sensitivity
from kvquilt_router.calibration.tables import Histograms, cluster, cost, fit_tables
from kvquilt_router.calibration.texts import MAX_TOKENS


def words(text):
    return np.arange(int(text), dtype=np.uint32)


def texts(*tokens):
    return [Text(f"{index:02}", str(count)) for index, count in enumerate(tokens)]


def test_every_fifth_text_is_held_out_whole():
    corpus = cut(texts(*[2100] * 10), words)
    assert len(corpus.training) == 8 * 2  # the rest of 52 tokens is too short
    assert [len(piece.token_ids) for piece in corpus.held_out] == [1024] * 4
    assert corpus.description.endswith("04, 09")


def test_two_of_four_texts_are_held_out():
    corpus = cut(texts(300, 300, 300, 300), words)
    assert (len(corpus.training), len(corpus.held_out)) == (2, 2)
    assert len(corpus.training[0].context) == 225
    assert len(corpus.training[0].continuation) == 75


def test_long_texts_are_used_up_to_the_limit_and_all_of_them_a_little():
    corpus = cut(texts(200_000, *[1024] * 9), words)
    assert corpus.training_tokens <= MAX_TOKENS
    assert len(corpus.training) == 32


@pytest.mark.parametrize("counts", [(), (1000, 1000, 1000), (1000, 1000, 1000, 20), (100, 100, 100, 100)], ids=str)
def test_too_few_texts_or_tokens_are_refused(counts):
    with pytest.raises(BadRequestError, match="add texts"):
        cut(texts(*counts), words)


def test_few_tokens_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        cut(texts(*[1024] * 6), words)
    assert "fewer bits" in caplog.text
    caplog.clear()
    cut(texts(*[1024] * 24), words)
    assert not caplog.text


@pytest.mark.parametrize("exponent", [1.5, 2.0, 3.0])
def test_the_step_is_found_in_few_measurements(exponent):
    measured = []

    def kl(step):
        measured.append(step)
        return 0.3 * step**exponent

    step = find_step(kl, 0.1, 5e-4)
    assert 0.85 * 5e-4 <= 0.3 * step**exponent <= 5e-4
    assert len(measured) <= 5


def test_a_target_below_the_floor_is_refused():
    with pytest.raises(BadRequestError, match="raise it"):
        find_step(lambda step: 1e-3 + step**2, 0.1, 5e-4)


def quantised(values, quality_layers):
    integers = nested(np.rint(values).astype(np.int32), quality_layers)
    return Quantised(integers, 0.0)


def test_tables_cost_little_more_than_the_entropy_of_channels():
    generator = np.random.default_rng(0)
    scales = np.exp(generator.uniform(-2, 2, 96))
    histograms = [Histograms(3), Histograms(3)]
    for histogram in histograms:
        histogram.add(quantised(generator.laplace(0, 10 * scales, (4000, 96)), 3))
    coding = fit_tables(*histograms)
    assert [quality.tables.alphabet for quality in coding.quality] == [64, 3, 3]
    shares = histograms[1].coarse[0] / 4000
    entropy = -4000 * float((shares * np.log2(np.where(shares, shares, 1))).sum())
    assert entropy < coding.bits[0] < 1.05 * entropy


def test_narrow_values_take_the_small_alphabet():
    histograms = [Histograms(1), Histograms(1)]
    for seed, histogram in enumerate(histograms):
        histogram.add(quantised(np.random.default_rng(seed).normal(0, 0.4, (3000, 40)), 1))
    assert fit_tables(*histograms).quality[0].tables.alphabet == 16


def test_more_tables_than_rows_and_rows_without_counts():
    counts = np.zeros((5, 2, 3))
    counts[2, 0] = (1, 8, 1)
    quality = cluster([counts])
    assert quality.table_ids[0].shape == (5, 2)
    assert quality.tables.count <= 10
    assert np.isfinite(cost(quality, [counts]))


def test_outliers_are_the_farthest_beyond_the_distance_and_within_the_budget():
    distance = np.ones(600, np.float32)
    distance[[5, 300, 400, 500]] = 9, 7, 8, 6
    assert list(np.flatnonzero(mark(OutlierRule(0, 2.0, 256), distance))) == [5, 300, 400]
    assert list(np.flatnonzero(mark(OutlierRule(0, 7.5, 256), distance))) == [5, 400]
    assert not mark(OutlierRule(0, 9.0, 256), distance).any()


def with_sinks(seed, early, late):
    """Ten layers of 512 tokens with keys far from the mean: some only in layers 2 and 3, others from layer 4 on."""
    generator = np.random.default_rng(seed)
    layout = KVLayout(DataType.FLOAT32, (LayerShape(1, 8, 8),) * 10)
    keys, values = (generator.standard_normal((10, 512, 1, 8), np.float32) for _ in range(2))
    keys[2:4, early] += 20
    keys[4:, late] += 20
    return KVChunk(layout, np.arange(512, dtype=np.uint32), tuple(keys), tuple(values))


def sensitive(*tokens):
    tables = np.full((4, 512, 10), 1e-3)
    for seed in range(4):
        tables[seed, [token(seed) for token in tokens]] = 1
    layout = KVLayout(DataType.FLOAT32, (LayerShape(1, 8, 8),) * 10)
    return Sensitivity(layout, tuple(tables), tuple(np.ones((10, 16))))


def marked_by(rules, gathered):
    means = {rule.layer: trimmed_mean(gathered.layer(rule.layer), 8) for rule in rules}
    marked = mark_all(rules, gathered, means).reshape(-1, 512)
    return [list(np.flatnonzero(part)) for part in marked], means


def test_a_rule_finds_the_sensitive_tokens_and_spares_chunks_without_any():
    gathered = Gathered([with_sinks(seed, [], [0, 100 + seed]) for seed in range(4)])
    rules = choose_rules(gathered, sensitive(lambda _: 0, lambda seed: 100 + seed), range(4))
    assert [rule.layer in (4, 5) for rule in rules] == [True]
    marked, means = marked_by(rules, gathered)
    assert marked == [[0, 100 + seed] for seed in range(4)]
    assert not mark_all(rules, Gathered([with_sinks(9, [], [])]), means).any()


def test_sinks_of_two_kinds_take_two_rules():
    gathered = Gathered([with_sinks(seed, [50 + seed, 300], [0]) for seed in range(4)])
    rules = choose_rules(gathered, sensitive(lambda _: 0, lambda seed: 50 + seed, lambda _: 300), range(4))
    assert sorted(rule.layer >= 4 for rule in rules) == [False, True]
    marked, _ = marked_by(rules, gathered)
    assert all({0, 50 + seed, 300} <= set(found) for seed, found in enumerate(marked))
    assert sum(map(len, marked)) <= 4 * 3 + 2, "hardly any ordinary token"


def test_without_sinks_there_is_no_rule():
    gathered = Gathered([with_sinks(seed, [], []) for seed in range(4)])
    assert choose_rules(gathered, sensitive(), range(4)) == ()
