"""The command line as a user has it: real processes, exit codes, JSON."""

import json

import pytest

from kvquilt.demo.server import serving
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_codec.types import Level
from tests.codec.profiles import make_coder, make_profile
from tests.codec.samples import make_chunk, make_container
from tests.e2e.commands import answer, kvquilt
from tests.stack import blobs
from tests.texts import PASSAGES


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("store")
    with serving(data_dir, ["router.background=false", "router.profile=", "router.ungated=true"]) as router:
        yield router, data_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    for i, text in enumerate(PASSAGES[:3]):
        (folder / f"{i}.txt").write_text(text)
    return folder


def test_prefetch_ask_status_inspect_forget(server, folder):
    router, data_dir = server
    *documents, last = answer("prefetch", folder, "--router", router)
    assert [item["document_id"] for item in documents] == [str(folder / f"{i}.txt") for i in range(3)]
    assert last["summary"]["chunks_failed"] == 0
    assert last["summary"]["chunks_stored"] == 4
    docs = [word for i in (2, 0, 1) for word in ("--doc", folder / f"{i}.txt")]
    (asked,) = answer("ask", "What is this about?", *docs, "--router", router, "--max-tokens", "4", "--compare")
    assert asked["fallback_reason"] == ""
    assert not any(chunk["miss_reason"] for chunk in asked["report"]["chunks"])
    assert asked["difference"]["first_token_kl"] >= 0
    assert 0 <= asked["difference"]["top1_agreement"] <= 1
    (status,) = answer("status", "--router", router)
    assert status["nodes"][0]["objects"] == 4
    assert status["counters"]["blends"] == 1
    assert "smollm2" in kvquilt("status", "--router", router).stdout
    (held,) = answer("inspect", blobs(data_dir)[0])
    assert held["verified"] is True
    assert held["model_fingerprint"] == status["models"][0]["fingerprint"]
    (receipt,) = answer("forget", *(folder / f"{i}.txt" for i in range(3)), "--router", router)
    assert receipt["objects_deleted"] == 3
    (receipt,) = answer("forget", "--namespace", "public", "--router", router)
    assert receipt["objects_deleted"] == 1, "the shared prefix, which no document holds"
    (receipt,) = answer("forget", "--namespace", "public", "--node", status["nodes"][0]["target"])
    assert receipt == {"objects_deleted": 0, "bytes_deleted": 0, "objects_kept_shared": 0, "objects_pending": 0}
    kvquilt("forget", "--router", router, code=2)
    kvquilt("forget", "a document", "--namespace", "public", code=2)
    kvquilt("forget", "a document", "--node", status["nodes"][0]["target"], code=2)


def test_inspect_of_a_damaged_file_exits_4(server, folder, tmp_path):
    router, data_dir = server
    kvquilt("prefetch", folder, "--router", router)
    data = bytearray(blobs(data_dir)[0].read_bytes())
    data[-1] ^= 1
    (tmp_path / "bad.kvq").write_bytes(data)
    result = kvquilt("inspect", tmp_path / "bad.kvq", "--json", code=4)
    assert json.loads(result.stderr)["error"]["reason"] == "checksum"
    (tmp_path / "empty.kvq").write_bytes(b"")
    kvquilt("inspect", tmp_path / "empty.kvq", code=4)


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["status", "--router", "127.0.0.1:1"], 5, "unavailable"),
        (["inspect", "no/such/file"], 3, "not_found"),
        (["prefetch", "no/such/file"], 3, "not_found"),
        (["config", "check", "--set", "router.policy=nope"], 2, "unknown_policy"),
        (["config", "check", "--set", "router.namespace=team"], 2, "no_master_secret"),
        (["config", "show", "--set", "nonsense=1"], 2, "bad_request"),
        (["model", "no/such/model"], 3, "not_found"),
        (["router", "--model", "no/such/model", "--port", "0"], 3, "not_found"),
    ],
)
def test_failures_have_a_reason_and_an_exit_code(arguments, code, reason):
    result = kvquilt(*arguments, "--json", code=code)
    assert json.loads(result.stderr.splitlines()[-1])["error"]["reason"] == reason


def test_a_port_that_is_taken_is_said_so(server, tmp_path):
    router, _ = server
    port = router.rpartition(":")[2]
    result = kvquilt("node", "--port", port, "--data-dir", tmp_path, code=5)
    assert "choose another port" in result.stderr


def test_a_store_that_is_in_use_is_said_so(server):
    _, data_dir = server
    result = kvquilt("node", "--port", "0", "--data-dir", data_dir, "--json", code=5)
    assert json.loads(result.stderr.splitlines()[-1])["error"]["reason"] == "store_locked"


def test_config_show_names_every_value_and_its_source(tmp_path):
    (shown,) = answer("config", "show", "--set", "node.port=0", KVQUILT_ROUTER__PORT="1")
    assert shown["node.port"] == {"value": "0", "source": "flag"}
    assert shown["router.port"] == {"value": "1", "source": "KVQUILT_ROUTER__PORT"}
    assert shown["router.host"]["source"] == "default"
    assert answer("config", "check") == [{"ok": True}]


def test_model_prints_its_folder_and_what_was_measured():
    (model,) = answer("model", "smollm2", "--check")
    assert model["layers"] == 30
    assert model["layers_without_RoPE"] == 0
    assert kvquilt("model").stdout.strip() == model["folder"]


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory):
    """A profile of the demo model, from few texts and with two levels: made in seconds."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(PASSAGES):
        (folder / f"{number}.txt").write_text(text)
    path = folder / "out" / "model.profile"
    arguments = ("calibrate", "--texts", folder, "--kl", "0.01", "--quality-layers", "2", "--gate-cases", "0")
    (report,) = answer(*arguments, "--output", path)
    return path, report


def test_calibrate_writes_a_profile_whose_levels_were_measured(calibrated, tmp_path):
    path, report = calibrated
    data = path.read_bytes()
    profile = profile_file.load(data, report["digest"])
    assert len(data) == report["bytes"]
    medium, high = report["levels"]
    assert (medium["level"], high["level"]) == ("medium", "high") == tuple(card.level for card in profile.cards)
    assert medium["bits_per_element"] < high["bits_per_element"] < 8
    assert high["kl"] <= 0.01 < medium["kl"] < 1
    assert report["gate"] == []
    assert not gate_file.beside(path).exists()
    missing = kvquilt("calibrate", "--texts", tmp_path / "nowhere", "--output", tmp_path / "x", "--json", code=3)
    assert json.loads(missing.stderr.splitlines()[-1])["error"]["reason"] == "not_found"


def test_inspect_tells_what_each_level_takes(tmp_path):
    coder = make_coder(make_profile(distance=4.0))
    data = make_container(make_chunk(600), Level.HIGH, coder=coder)
    (tmp_path / "chunk.kvq").write_bytes(data)
    (held,) = answer("inspect", tmp_path / "chunk.kvq")
    assert held["profile"] == coder.digest
    assert list(held["levels"]) == ["high", "medium", "low"]
    assert held["levels"]["high"] == held["bits_per_element"] == round(8 * len(data) / (600 * 96), 4)
    assert sorted(held["levels"].values(), reverse=True) == list(held["levels"].values())
    assert list(held["stages"]) == ["exact-tokens", "joint-predicted", "refinement"]
    assert held["exact_tokens"] == int(coder.exact_rows(make_chunk(600)).sum()) > 0
    assert 0 < held["exact_tokens_bits"] < held["levels"]["low"]
    assert "low" in kvquilt("inspect", tmp_path / "chunk.kvq").stdout


def test_version_and_help():
    assert kvquilt("--version").stdout.strip()
    for command in (
        "serve",
        "node",
        "router",
        "prefetch",
        "ask",
        "status",
        "inspect",
        "forget",
        "model",
        "calibrate",
        "demo",
    ):
        assert "Usage" in kvquilt(command, "--help").stdout
