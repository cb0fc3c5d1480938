"""Calibration on a real model, with few tokens and half of its layers: each part of the design earns its place."""

from dataclasses import dataclass

import numpy as np
import pytest

from kvquilt.demo.corpus import passages
from kvquilt_codec.joint.layer import Design, make_layers
from kvquilt_codec.profile import OutlierRule
from kvquilt_codec.transform.stages import random_basis
from kvquilt_router.calibration import Piece, Quality
from kvquilt_router.calibration.fit import Sample, fit_layers
from kvquilt_router.calibration.gather import gather
from kvquilt_router.calibration.outliers import mark_all, trimmed_mean
from kvquilt_router.calibration.rate import bits_per_element
from kvquilt_router.calibration.reconstruct import reconstruct
from kvquilt_router.calibration.tables import fit_tables

LAYERS = 30
STEP = 0.3


@dataclass
class Bench:
    pieces: list
    training: Sample
    measured: Sample
    quality: Quality

    def rate(self, history=0, **options):
        """Estimated bits per element of the first layers."""
        weights = [np.ones(384, np.float32)] * 10
        fit = fit_layers(self.training, self.measured, weights, history, Design(STEP, 2), **options)
        return bits_per_element(self.measured, fit_tables(fit.training, fit.measured).bits)


@pytest.fixture(scope="module")
def bench(smollm2):
    pieces = [Piece(smollm2.tokenise(str(document.content))) for document in passages().values()]
    training = gather(smollm2.engine, [piece.token_ids for piece in pieces[2:]])
    measured = gather(smollm2.engine, [piece.context for piece in pieces[:2]])
    rule = OutlierRule(12, 0.0, 256)
    means = {12: trimmed_mean(training.layer(12), 192)}
    samples = [Sample(gathered, mark_all([rule], gathered, means)) for gathered in (training, measured)]
    return Bench(pieces[:2], *samples, Quality(smollm2, pieces[:2]))


def test_the_klt_beats_no_transform_and_a_random_one(bench):
    rates = {
        "klt": bench.rate(),
        "none": bench.rate(basis=lambda residual: np.eye(residual.shape[1], dtype=np.float32)),
        "random": bench.rate(basis=lambda residual: random_basis(residual.shape[1], 0)),
    }
    assert rates["klt"] < 0.95 * min(rates["none"], rates["random"]), rates


def test_prediction_from_decoded_layers_beats_none(bench):
    rates = [bench.rate(0), bench.rate(1)]
    assert rates[1] < rates[0], rates


def test_finer_steps_and_more_quality_layers_lower_the_kl(bench):
    weights = [np.ones(384, np.float32)] * LAYERS
    fit = fit_layers(bench.training, bench.measured, weights, 0, Design(STEP, 2))

    def kl(step, depth):
        layers = make_layers(fit.layers, Design(step, 2))
        cuts = np.cumsum(bench.measured.gathered.lengths)[:-1]
        return bench.quality.measure(
            reconstruct(bench.measured.gathered.text(number), exact, layers, depth)
            for number, exact in enumerate(np.split(bench.measured.exact, cuts))
        ).kl

    fine, coarse, coarser = kl(STEP, 2), kl(STEP, 1), kl(4 * STEP, 1)
    assert fine < coarse < coarser
    assert coarse == pytest.approx(kl(3 * STEP, 2), rel=0.5)
