"""What was measured before: read whole, held against the model, kept for routers; not used where it does not hold."""

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from kvquilt.demo.measured_before import CONDITIONS, PASSAGES_GATE, PROFILE, Conditions, read
from kvquilt.demo.profile import MADE, SHIPPED, made_proof, proof, shipped_proof
from kvquilt_codec.errors import FingerprintMismatchError, IntegrityError, NotFoundError
from kvquilt_codec.gate import file as gate_file
from kvquilt_router.calibration import Text
from kvquilt_router.engine.model import prepare
from kvquilt_router.evaluation.types import WARM
from kvquilt_router.gate.measure import Grid
from kvquilt_router.profiles import auto_path, cached_path, shipped_path, write_whole
from tests.router.families import SUPPORTED, tiny
from tests.router.test_calibration_tiny import Words, numbers

TEXTS = [Text(f"text {seed}", numbers(seed, 400)) for seed in range(6)]
FEW = Grid(ways=(("none", 0.0),), contexts=(WARM,), cases=4)


def quiet(*_):
    pass


@pytest.fixture(scope="module")
def model():
    return replace(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), tokenizer=Words())


@pytest.fixture(scope="module")
def made(model, tmp_path_factory):
    """Profile and gate of a tiny model, measured once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("made")))
        return made_proof(model, lambda: TEXTS, quiet, quiet, FEW)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(made, tmp_path, cache):
    """The same as the files that ship."""
    folder = tmp_path / "measured"
    gate = gate_file.beside(path_of(made)).read_bytes()
    write_whole(folder / PROFILE, path_of(made).read_bytes())
    write_whole(gate_file.beside(folder / PROFILE), gate)
    passages = msgspec.structs.replace(gate_file.load(gate), texts="4 prompts over passages")
    write_whole(folder / PASSAGES_GATE, gate_file.dump(passages))
    write_whole(folder / CONDITIONS, msgspec.json.encode(Conditions("make it", "a CPU", 2, "2", "5")))
    return folder


def path_of(made):
    return Path(made.profile)


def test_what_was_measured_here_says_so(made):
    assert (made.origin, made.gate) == (MADE, "auto")
    assert "measured on this machine; the gate on 4 prompts" in made.words
    assert made.name == path_of(made).name


def test_what_ships_is_used_and_kept_for_routers(model, folder):
    assert auto_path(model.fingerprint) is None
    found = shipped_proof(model, pytest.fail, folder)
    assert (found.origin, found.profile) == (SHIPPED, str(folder / PROFILE))
    assert found.gate == str(folder / PASSAGES_GATE)
    assert (
        found.words
        == "measured before, with `make it` (a CPU, 2 threads, torch 2); the gate on 4 prompts over passages"
    )
    kept = auto_path(model.fingerprint)
    assert kept == shipped_path(model.fingerprint)
    assert kept.read_bytes() == (folder / PROFILE).read_bytes()
    assert gate_file.beside(kept).read_bytes() == gate_file.beside(folder / PROFILE).read_bytes()


def test_keeping_twice_writes_once_and_repairs_what_was_damaged(model, folder):
    shipped_proof(model, pytest.fail, folder)
    kept = shipped_path(model.fingerprint)
    written = kept.stat().st_mtime_ns
    gate_file.beside(kept).write_bytes(b"damaged")
    shipped_proof(model, pytest.fail, folder)
    assert kept.stat().st_mtime_ns == written
    assert gate_file.beside(kept).read_bytes() == gate_file.beside(folder / PROFILE).read_bytes()


def test_what_was_made_on_this_machine_goes_before_what_shipped(model, folder):
    shipped_proof(model, pytest.fail, folder)
    write_whole(cached_path(model.fingerprint), (folder / PROFILE).read_bytes())
    assert auto_path(model.fingerprint) == cached_path(model.fingerprint)


def test_another_models_files_are_not_used_and_it_is_said_why(folder):
    other = prepare(tiny(*SUPPORTED["mistral"]), None, "other")
    told = []
    assert shipped_proof(other, told.append, folder) is None
    assert "expected a profile of model" in told[0]
    assert auto_path(other.fingerprint) is None
    with pytest.raises(FingerprintMismatchError):
        read(folder).check(other.fingerprint)


@pytest.mark.parametrize("name", [PROFILE, PASSAGES_GATE, CONDITIONS, "smollm2.gate.json"])
def test_a_missing_or_damaged_file_is_told_and_nothing_of_the_others_is_used(model, folder, name):
    content = (folder / name).read_bytes()
    for damage in (content[: len(content) // 2], b"", None):
        if damage is None:
            (folder / name).unlink()
        else:
            (folder / name).write_bytes(damage)
        with pytest.raises(IntegrityError):
            read(folder)
        assert shipped_proof(model, quiet, folder) is None
        assert auto_path(model.fingerprint) is None


def test_a_gate_of_another_profile_is_not_used(model, folder):
    gate = gate_file.load((folder / PASSAGES_GATE).read_bytes())
    (folder / PASSAGES_GATE).write_bytes(gate_file.dump(msgspec.structs.replace(gate, profile_digest="0" * 64)))
    told = []
    assert shipped_proof(model, told.append, folder) is None
    assert "it is stale" in told[0]


def test_without_the_files_it_says_how_to_make_them(model, tmp_path, cache):
    with pytest.raises(NotFoundError, match="make demo-profile"):
        read(tmp_path / "nowhere")
    assert shipped_proof(model, quiet, tmp_path / "nowhere") is None


def test_conditions_name_all_that_was_asked_for(folder):
    fields = json.loads((folder / CONDITIONS).read_bytes())
    fields["more"] = 1
    (folder / CONDITIONS).write_bytes(json.dumps(fields).encode())
    with pytest.raises(IntegrityError, match="more"):
        read(folder)


@pytest.mark.parametrize(("chosen", "name"), [("", "smollm2"), ("a.profile", "smollm2"), ("auto", "a/folder")])
def test_what_is_chosen_is_taken_without_measuring(chosen, name):
    found = proof(chosen, name, False, pytest.fail, pytest.fail)
    assert (found.profile, found.gate, found.words) == (chosen, "auto", "")
