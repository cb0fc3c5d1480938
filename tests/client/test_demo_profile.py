"""The profile that the demo makes for itself: once, whole, and of the model it serves."""

from dataclasses import replace

import msgspec
import pytest

from kvquilt.demo.profile import made_once
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file
from kvquilt_router.calibration import Text
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.types import WARM
from kvquilt_router.gate.measure import Grid
from kvquilt_router.profiles import cached_path, read_profile
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words, numbers

TEXTS = [Text(f"text {seed}", numbers(seed, 400)) for seed in range(6)]
FEW = Grid(ways=(("none", 0.0), ("question-deviation", 0.2)), contexts=(WARM,), cases=4)


@pytest.fixture(scope="module")
def model():
    return replace(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), tokenizer=Words())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kvquilt"


class InterruptedError(BaseException):
    pass


def make(model, progress=lambda *_: None):
    return made_once(model, lambda: TEXTS, lambda: None, progress, FEW)


def gate_of(path):
    return gate_file.load(gate_file.beside(path).read_bytes())


def test_it_is_made_once_and_interrupted_it_leaves_nothing_half_done(model, cache):
    def stop_at(wanted):
        def stop(stage, done, total):
            if stage == wanted:
                raise InterruptedError

        return stop

    with pytest.raises(InterruptedError):
        make(model, stop_at("cards"))
    assert not cache.exists() or not list(cache.iterdir())
    path = cached_path(model.fingerprint)
    with pytest.raises(InterruptedError):
        make(model, stop_at("gate"))
    assert list(cache.iterdir()) == [path], "a finished profile stays"
    written = path.read_bytes()
    assert make(model) == path
    assert path.read_bytes() == written
    assert read_profile(path, model.fingerprint) == written
    gate_file.check(gate_of(path), model.fingerprint, file.digest(written))
    assert made_once(model, pytest.fail, pytest.fail, pytest.fail) == path, "neither texts nor work"
    assert set(cache.iterdir()) == {path, gate_file.beside(path)}


def test_damaged_ones_are_made_anew(model, cache):
    path = cached_path(model.fingerprint)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    gate_file.beside(path).write_bytes(b"damaged")
    make(model)
    assert file.load(path.read_bytes()).model_fingerprint == model.fingerprint
    assert {point.cases for point in gate_of(path).points} == {4}


def test_a_gate_that_was_measured_with_another_profile_is_measured_anew(model, cache):
    path = make(model)
    stale = gate_file.dump(msgspec.structs.replace(gate_of(path), profile_digest="0" * 64))
    gate_file.beside(path).write_bytes(stale)
    make(model)
    assert gate_of(path).profile_digest == file.digest(path.read_bytes())
