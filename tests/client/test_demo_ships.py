"""The files that ship hold for the model that is converted here, and some of their points are measured again."""

from dataclasses import replace

import msgspec
import pytest

from kvquilt.demo.measured_before import MeasuredBefore, read
from kvquilt.demo.profile import made_once
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.levels import level_cards
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Text, cut
from kvquilt_router.calibration.corpus import shipped_texts
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.types import EXACT, WARM
from kvquilt_router.gate import choose
from kvquilt_router.gate.measure import Grid, measure_gate
from kvquilt_router.settings import RouterSettings
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words, numbers

WAYS = (("none", 0.0), ("question-deviation", 0.2))


def beyond(model, profile, gate, texts):
    """Points whose first cases, measured again, are on average beyond the gate's bound."""
    coder = JointCoder(file.load(profile), file.digest(profile))
    grid = Grid(ways=WAYS, contexts=(WARM,), levels=("high",), cases=4)
    again = measure_gate(model, coder, cut(texts, model.tokenise), grid)
    bounds = {point.key: point.kl_upper for point in gate.points}
    return [point.key for point in again.points if point.kl_geomean > bounds[point.key]]


def out_of_order(gate):
    """Points that cost no more than those of a lower ratio; in exact contexts there is one ratio only."""
    found = []
    for point in gate.points:
        lower = [
            other
            for other in gate.points
            if (other.level, other.context) == (point.level, point.context)
            and other.context != EXACT
            and other.recompute_ratio < point.recompute_ratio
        ]
        found += [point.key for other in lower if other.cpu_share >= point.cpu_share]
    return found


@pytest.fixture(scope="module")
def tiny_files(tmp_path_factory):
    """Model, texts, profile and gate, made as those that ship."""
    model = replace(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), tokenizer=Words())
    texts = [Text(f"text {seed}", numbers(seed, 400)) for seed in range(6)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("made")))
        grid = Grid(ways=WAYS, contexts=(WARM,), cases=4)
        path = made_once(model, lambda: texts, lambda: None, lambda *_: None, grid)
    return model, texts, path.read_bytes(), gate_file.load(gate_file.beside(path).read_bytes())


def test_measuring_again_finds_what_a_gate_does_not_hold(tiny_files):
    model, texts, profile, gate = tiny_files
    assert beyond(model, profile, gate, texts) == []
    lowered = tuple(msgspec.structs.replace(p, kl_upper=p.kl_geomean / 2) for p in gate.points)
    assert {key[2] for key in beyond(model, profile, msgspec.structs.replace(gate, points=lowered), texts)} >= {WARM}


def test_costs_that_do_not_rise_with_the_ratio_are_found(tiny_files):
    gate = tiny_files[3]
    for cheap, expected in ((0.1, 0), (0.9, 1)):
        points = tuple(
            msgspec.structs.replace(p, cpu_share=cheap if p.recompute_ratio == 0 else 0.5)
            for p in gate.points
            if p.level == gate.points[0].level
        )
        assert len(out_of_order(msgspec.structs.replace(gate, points=points))) == expected


@pytest.fixture(scope="module")
def shipped() -> MeasuredBefore:
    return read()


def test_they_are_of_the_demo_model_and_of_each_other(shipped, smollm2):
    shipped.check(smollm2.fingerprint)


def test_costs_rise_with_the_ratio_so_that_their_order_holds_on_any_machine(shipped):
    assert out_of_order(shipped.passages) == out_of_order(shipped.every_kind) == []


def test_both_gates_let_something_pass_at_every_level_within_the_default_limit(shipped):
    levels = [level.value for level in level_cards(file.load(shipped.profile))]
    for gate in (shipped.passages, shipped.every_kind):
        assert {point.cases for point in gate.points} == {48}
        for level in levels:
            assert choose(gate, level, {EXACT, WARM}, RouterSettings().max_kl).refusal == ""


def test_some_points_measured_again_are_within_their_bounds(shipped, smollm2):
    assert beyond(smollm2, shipped.profile, shipped.every_kind, shipped_texts()) == []
