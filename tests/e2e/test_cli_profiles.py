"""Profiles and their gates by the command line: stored, listed, shown, refused."""

import json

import pytest

from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file
from kvquilt_router.profiles import write_whole
from tests.codec.gates import make_gate
from tests.codec.profiles import make_profile
from tests.codec.samples import FINGERPRINT
from tests.e2e.commands import answer, kvquilt
from tests.stack import node_process

PROFILE = make_profile(distance=4.0)
DATA = file.dump(PROFILE)
DIGEST = file.digest(DATA)
GATE = make_gate(FINGERPRINT, DIGEST)
GATE_DATA = gate_file.dump(GATE)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "own" / "model.safetensors"
    write_whole(path, DATA)
    return path


@pytest.fixture
def node(tmp_path):
    with node_process(tmp_path / "store") as (_, address):
        yield address


def reason(*arguments, code):
    return json.loads(kvquilt(*arguments, "--json", code=code).stderr.splitlines()[-1])["error"]["reason"]


def test_a_profile_and_the_gate_beside_it_are_put_listed_and_shown(path, node):
    bare = {"digest": DIGEST, "bytes": len(DATA), "stored": True, "gate": None}
    assert answer("profile", "put", path, "--node", node) == [bare]
    assert "kvquilt calibrate" in kvquilt("profile", "show", DIGEST, "--node", node).stdout, "why there is no gate"
    write_whole(gate_file.beside(path), GATE_DATA)
    gate = {"digest": gate_file.digest(GATE_DATA), "bytes": len(GATE_DATA), "stored": True}
    assert answer("profile", "put", path, "--node", node) == [bare | {"stored": False, "gate": gate}]
    (listed,) = answer("profile", "list", "--node", node)
    (info,) = listed["profiles"]
    assert (info["digest"], info["objects"], info["gates"]) == (DIGEST, 0, 1)
    assert DIGEST[-8:] in kvquilt("profile", "list", "--node", node).stdout
    (local,) = answer("profile", "show", path)
    (kept,) = answer("profile", "show", DIGEST, "--node", node)
    assert local == kept
    assert [card["level"] for card in local["levels"]] == [card.level for card in reversed(PROFILE.cards)]
    assert (len(local["gate"]), local["gate_missing_reason"]) == (len(GATE.points), "")
    assert local["gate"][0] == {name: getattr(GATE.points[0], name) for name in GATE.points[0].__struct_fields__}
    shown = kvquilt("profile", "show", path).stdout
    assert f"{PROFILE.cards[0].bits_per_element:.2f}" in shown
    assert "blend gate" in shown
    assert GATE.texts in shown
    kvquilt("profile", "show", "0" * 64, "--node", node, code=3)


def test_a_stale_gate_is_not_put_and_shown_as_such(path, node):
    write_whole(gate_file.beside(path), gate_file.dump(make_gate(FINGERPRINT, "0e" * 32)))
    assert reason("profile", "put", path, "--node", node, code=4) == "fingerprint_mismatch"
    assert answer("profile", "list", "--node", node) == [{"profiles": []}], "nothing is half put"
    (shown,) = answer("profile", "show", path)
    assert shown["gate"] == []
    assert "stale" in shown["gate_missing_reason"]


def test_what_is_no_profile_is_refused(path, tmp_path):
    damaged = tmp_path / "damaged.profile"
    damaged.write_bytes(DATA[:-1])
    kvquilt("profile", "put", damaged, code=4)
    kvquilt("profile", "show", tmp_path / "nowhere", code=3)


def test_inspect_shows_profiles_and_gates(path):
    gate = gate_file.beside(path)
    write_whole(gate, GATE_DATA)
    (card,) = answer("inspect", path)
    assert card["digest"] == DIGEST
    (shown,) = answer("inspect", gate)
    assert (shown["profile"], shown["model_fingerprint"]) == (DIGEST, FINGERPRINT)
    assert len(shown["gate"]) == len(GATE.points)
    write_whole(gate, GATE_DATA[:-20])
    assert reason("inspect", gate, code=4) == "integrity"
