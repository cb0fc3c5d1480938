"""A gate that is measured: sound models pass, and what is broken in the path of a chunk does not."""

import copy
from dataclasses import replace

import pytest
import torch

from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError
from kvquilt_codec.gate.file import check, dump, load
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import file
from kvquilt_codec.types import KVChunk
from kvquilt_router.calibration import Text, calibrate, cut
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.types import PAIR, WARM
from kvquilt_router.gate import choose, measure
from kvquilt_router.gate.measure import Grid, measure_gate
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words, numbers, one_thread

__all__ = ["one_thread"]  # a fixture

WAYS = (("none", 0.0), ("question-deviation", 0.3), ("question-deviation", 0.7))
GRID = Grid(ways=WAYS, contexts=(WARM,), levels=("high",), cases=4)
TEXTS = [Text(f"text {seed}", numbers(seed, 400)) for seed in range(6)]


def sharp():
    """A model whose answers hang on where its keys are."""
    model = tiny(*SUPPORTED["llama"])
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(1.5)
    return model


def loaded(model):
    return replace(prepare(model, None, "tiny"), tokenizer=Words())


@pytest.fixture(scope="module")
def coder():
    profile = calibrate(loaded(sharp()), TEXTS, step=0.2, history=2)
    return JointCoder(profile, file.digest(file.dump(profile)))


def measured(model, coder, grid=GRID):
    return measure_gate(model, coder, cut(TEXTS, model.tokenise), grid)


@pytest.fixture(scope="module")
def sound(coder):
    return measured(loaded(sharp()), coder)


def passing(gate, limit):
    """Ratios at which chunks would be blended."""
    decisions = {ratio: choose(gate, "high", {WARM}, limit, policy=name, recompute_ratio=ratio) for name, ratio in WAYS}
    return [ratio for ratio, decision in decisions.items() if not decision.refusal]


@pytest.fixture(scope="module")
def limit(sound):
    """A limit that the sound model keeps with room to spare, where most is recomputed."""
    return 2 * next(point.kl_upper for point in sound.points if point.recompute_ratio == 0.7)


def test_the_codec_alone_costs_little_and_what_is_recomputed_comes_closer(sound, coder):
    points = {(point.context, point.recompute_ratio): point for point in sound.points}
    assert set(points) == {("exact", 0.0), (WARM, 0.0), (WARM, 0.3), (WARM, 0.7)}
    kl = {key: point.kl_geomean for key, point in points.items()}
    assert kl["exact", 0.0] < 0.1 * kl[WARM, 0.0]
    assert kl[WARM, 0.7] < kl[WARM, 0.3] < kl[WARM, 0.0]
    assert all(point.kl_geomean < point.kl_upper for point in sound.points)
    assert all(point.cases == 4 and 0 <= point.top1_agreement <= 1 and point.cpu_share > 0 for point in sound.points)
    assert (sound.model_fingerprint, sound.profile_digest) == (coder.profile.model_fingerprint, coder.digest)
    assert load(dump(sound)) == sound


def test_cases_are_the_same_every_time(sound, coder):
    again = measured(loaded(sharp()), coder)
    for ours, theirs in zip(again.points, sound.points, strict=True):
        assert ours.key == theirs.key
        assert ours.kl_upper == pytest.approx(theirs.kl_upper, rel=1e-3)


def test_keys_that_are_rotated_with_another_base_pass_nothing(sound, coder, limit):
    model = loaded(sharp())
    rotary = model.engine._runner.rotary
    rotary._embedding = copy.deepcopy(rotary._embedding)
    rotary._embedding.inv_freq.pow_(0.5)  # as if the base were 100 instead of 10,000
    assert passing(sound, limit)
    assert passing(measured(model, coder), limit) == []


def test_layers_that_are_stored_in_another_order_pass_nothing(sound, coder, limit, monkeypatch):
    own = measure.stored

    def shuffled(*arguments):
        through = own(*arguments)

        def swapped(chunk):
            keys, values = list(through(chunk).keys), list(through(chunk).values)
            keys[1:3], values[1:3] = keys[2:0:-1], values[2:0:-1]
            return KVChunk(chunk.layout, chunk.token_ids, tuple(keys), tuple(values), chunk.rotated_from)

        return swapped

    monkeypatch.setattr(measure, "stored", shuffled)
    gate = measured(loaded(sharp()), coder)
    assert passing(sound, limit)
    assert passing(gate, limit) == []
    of_exact = [next(p for p in g.points if p.context == "exact").kl_geomean for g in (sound, gate)]
    assert of_exact[1] > 10 * of_exact[0], "even in their exact context"


def test_a_fine_tuned_sibling_is_another_model(sound, coder):
    model = sharp()
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[0, 0] += 1e-3
    sibling = loaded(model)
    with pytest.raises(FingerprintMismatchError, match="of model"):
        check(sound, sibling.fingerprint, coder.digest)
    check(sound, loaded(sharp()).fingerprint, coder.digest)


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (Grid(cases=3), "at least 4 cases"),
        (Grid(levels=("low",)), "the profile has no others"),
        (Grid(ways=(("nope", 0.1),)), "first-tokens"),
        (Grid(ways=(("anchors", 0.1),)), "learns from requests"),
    ],
)
def test_what_cannot_be_measured_is_refused_first(coder, grid, words):
    with pytest.raises(BadRequestError, match=words):
        measured(loaded(sharp()), coder, grid)


def test_too_little_text_is_refused(coder):
    model = loaded(sharp())
    short = [Text(f"text {seed}", numbers(seed, 130)) for seed in range(7)]
    with pytest.raises(BadRequestError, match="at least 4 passages"):
        measure_gate(model, coder, cut(short, model.tokenise), replace(GRID, contexts=(PAIR,)))
