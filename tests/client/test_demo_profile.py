"""The profile that the demo makes for itself: once, whole, and of the model it serves."""

from dataclasses import replace

import pytest

from kvquilt.demo.profile import made_once, profile_setting
from kvquilt_codec.profile import file
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import cached_path, read_profile
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import TEXTS, Words


@pytest.fixture(scope="module")
def model():
    return replace(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), tokenizer=Words())


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "kvquilt"


class InterruptedError(BaseException):
    pass


def test_it_is_made_once_and_interrupted_it_leaves_nothing(model, cache):
    stages = []

    def stop(stage, done, total):
        if stage == "cards":
            raise InterruptedError

    with pytest.raises(InterruptedError):
        made_once(model, lambda: TEXTS, lambda: None, stop)
    assert not cache.exists() or not list(cache.iterdir())
    path = made_once(model, lambda: TEXTS, lambda: None, lambda stage, done, total: stages.append(stage))
    assert stages
    assert path == cached_path(model.fingerprint)
    assert read_profile(path, model.fingerprint)
    assert made_once(model, pytest.fail, pytest.fail, pytest.fail) == path, "neither texts nor work"
    assert list(cache.iterdir()) == [path]


def test_a_damaged_one_is_made_anew(model, cache):
    path = cached_path(model.fingerprint)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"damaged")
    made_once(model, lambda: TEXTS, lambda: None, lambda *_: None)
    assert file.load(path.read_bytes()).model_fingerprint == model.fingerprint


@pytest.mark.parametrize(("chosen", "model"), [("", "smollm2"), ("a.profile", "smollm2"), ("auto", "a/folder")])
def test_what_is_chosen_is_taken_without_calibration(chosen, model):
    assert profile_setting(chosen, model, lambda: None, lambda *_: pytest.fail("calibrates")) == chosen
