"""What the gate kept out, with the divergence that it predicts and the one that is allowed."""

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import write_whole
from tests.router.families import SUPPORTED, tiny
from tests.router.profiles.calls import calibrated
from tests.stack import serve

_RNG = np.random.default_rng(0)
PREFIX, FIRST, SECOND, WARM = (_RNG.integers(3, 500, n).tolist() for n in (9, 80, 70, 60))
QUESTION = [7, 8, 9, 10]


def point(policy, ratio, context, upper):
    return GatePoint(policy, ratio, context, "high", 8, upper / 10, upper, 0.9, 0.1)


@pytest.fixture
def client(tmp_path):
    model = prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")
    profile, gate = tmp_path / "tiny.safetensors", tmp_path / "gate.json"
    write_whole(profile, calibrated(model))
    points = [
        point("none", 0.0, "exact", 0.04),
        point("none", 0.0, "warm", 0.5),
        point("question-deviation", 0.2, "warm", 0.125),
    ]
    digest = profile_file.digest(profile.read_bytes())
    measured = Gate(model.fingerprint, digest, 16, 0.95, 0.9, "made by hand", tuple(points))
    write_whole(gate, gate_file.dump(measured))
    options = {"profile": str(profile), "gate": str(gate), "ungated": False, "background": False, "audit_share": 0.0}
    with serve(model, tmp_path / "store", **options) as router, Client(router) as client:
        yield client


def test_a_closed_gate_says_what_it_predicts_and_what_is_allowed(client):
    documents = [Document("first", FIRST), Document("second", SECOND)]
    assert not any(item.failed for item in client.prefetch(documents, shared_prefix=PREFIX, warm_up=[WARM]))

    def closed(**options):
        report = client.blend([SECOND, FIRST, QUESTION], shared_prefix=PREFIX, **options).report
        why = client.why(report.request_id)
        assert [chunk.cause for chunk in why.chunks] == ["", "gate_closed", "gate_closed"]
        assert why.gate_refusal == report.gate_refusal != ""
        assert {chunk.context for chunk in why.chunks[1:]} == {"warm"}
        return [chunk.predicted_kl for chunk in why.chunks[1:]], why.max_kl

    assert closed(max_kl=0.05) == ([0.125] * 2, 0.05)
    assert closed(max_kl=0.3, policy="none") == ([0.5] * 2, 0.3)
    assert closed(max_kl=0.3, policy="question") == ([None] * 2, 0.3), "it was not measured"
