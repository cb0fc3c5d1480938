"""`kvquilt doctor` of a machine before anything runs: each check fails for a real cause."""

import os
import shutil
import sqlite3
import stat
from datetime import UTC, datetime, timedelta

import pytest

from kvquilt_cache_node.store.rows import VERSION
from tests.e2e.doctoring import doctor, outcomes, settings
from tests.rpc.certificates import Authority, Signer

BEFORE = ("--before-start",)
OF_WHAT_RUNS = {"router", "nodes", "versions", "ring", "profile", "gate"}


def test_defaults_are_healthy_before_the_start(tmp_path):
    checks = doctor(*BEFORE, *settings(node__path=tmp_path / "new"), code=0)
    assert outcomes(checks, "skipped") >= OF_WHAT_RUNS
    assert {"configuration", "files", "time-outs", "volumes", "memory", "addresses"} <= outcomes(checks, "passed")
    assert not (tmp_path / "new").exists(), "it changes nothing"


def test_settings_that_no_part_can_start_with(tmp_path):
    checks = doctor("--set", "router.policy=sideways", code=1)
    assert checks.keys() == {"configuration"}
    assert "unknown_policy" in checks["configuration"]["got"]
    missing = settings(client__credentials__tls_ca=tmp_path / "none.pem")
    assert "none.pem" in doctor(*missing, code=1)["configuration"]["got"]
    assert "tls_ca" not in doctor(*missing, "--part", "node", *BEFORE, code=0)["configuration"]["got"]


def test_a_file_that_is_missing_and_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    flags = settings(router__profile=tmp_path / "none.safetensors", node__path=tmp_path / "file" / "store")
    checks = doctor(*BEFORE, *flags, code=1)
    assert outcomes(checks, "failed") == {"files"}
    assert "router.profile" in checks["files"]["got"]
    assert "node.path" in checks["files"]["got"]


def test_secrets_that_everybody_may_read_or_exchange(tmp_path):
    signer = Signer.new(tmp_path / "signing")
    token = tmp_path / "token"
    token.write_text(signer.token())
    shared = tmp_path / "shared"
    shared.write_text("x" * 40)
    config = tmp_path / "kvquilt.yaml"
    config.write_text(f"router: {{master_secret: {'m' * 40}, security: {{token_key: {shared}}}}}\n")
    for path in (token, shared, config):
        path.chmod(0o600)
    flags = ("--config", config, *settings(client__credentials__token_file=token, node__path=tmp_path / "store"))
    flags += tuple(settings(node__security__token_key=signer.public))
    assert doctor(*BEFORE, *flags, code=0)["secrets"]["got"].startswith("3 of them")
    for path in (token, shared, config):
        path.chmod(0o644)
        checks = doctor(*BEFORE, *flags, code=1)
        assert outcomes(checks, "failed") == {"secrets"}
        assert str(path) in checks["secrets"]["got"]
        assert "chmod" in checks["secrets"]["advice"]
        path.chmod(0o600)
    tmp_path.chmod(tmp_path.stat().st_mode | stat.S_IWOTH)
    assert "replace" in doctor(*BEFORE, *flags, code=1)["secrets"]["got"]
    tmp_path.chmod(0o700)


def test_times_out_of_order(tmp_path):
    flags = (*BEFORE, *settings(node__path=tmp_path))
    checks = doctor(*flags, *settings(client__deadline=5), code=1)
    assert outcomes(checks, "failed") == {"time-outs"}
    checks = doctor(*flags, *settings(node__drain_seconds=2, node__read_lease=1), code=0)
    assert outcomes(checks, "warned") == {"time-outs"}
    assert "node.drain_seconds" in checks["time-outs"]["got"]
    assert "node.read_lease" in checks["time-outs"]["got"]


def test_caps_beyond_the_volume_and_the_memory(tmp_path):
    flags = (*BEFORE, *settings(node__path=tmp_path))
    assert outcomes(doctor(*flags, *settings(node__capacity="900TiB"), code=1), "failed") == {"volumes"}
    back = settings(node__write_mode="back", node__queue_bytes="900TiB")
    assert "node.queue_bytes" in doctor(*flags, *back, code=1)["volumes"]["got"]
    assert outcomes(doctor(*flags, *settings(node__memory_bytes="900TiB"), code=1), "failed") == {"memory"}
    both = settings(router__anchor_bytes="900TiB")
    assert outcomes(doctor(*flags, *both, code=1), "failed") == {"memory"}
    assert outcomes(doctor(*flags, *both, "--part", "node", code=0), "failed") == set()


def test_what_a_store_holds_already_is_room_that_it_has(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    flags = (*BEFORE, *settings(node__path=tmp_path, node__capacity=int(free * 0.8)))
    assert doctor(*flags, code=0)["volumes"]["outcome"] == "passed"
    with (tmp_path / "blob").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, int(free * 0.3))
    try:
        assert doctor(*flags, code=0)["volumes"]["outcome"] == "passed"
        (tmp_path / "blob").rename(tmp_path.parent / "not-ours")
        assert doctor(*flags, code=1)["volumes"]["outcome"] == "failed"
    finally:
        (tmp_path.parent / "not-ours").unlink(missing_ok=True)
        (tmp_path / "blob").unlink(missing_ok=True)


def test_names_that_do_not_resolve(tmp_path):
    flags = (*BEFORE, *settings(node__path=tmp_path, router__nodes="dns:///nowhere.invalid:7411"))
    checks = doctor(*flags, code=1)
    assert outcomes(checks, "failed") == {"addresses"}
    assert "nowhere.invalid" in checks["addresses"]["got"]


@pytest.mark.parametrize(("days", "outcome"), [(-1, "failed"), (3, "warned"), (60, "passed")])
def test_this_machines_own_certificates(tmp_path, days, outcome):
    authority = Authority.new(tmp_path / "ca")
    party = authority.issue("server", "127.0.0.1", expires=datetime.now(UTC) + timedelta(days=days))
    party.key.chmod(0o600)
    flags = settings(node__security__tls_cert=party.cert, node__security__tls_key=party.key, node__path=tmp_path / "s")
    check = doctor(*BEFORE, *flags)["certificates"]
    assert check["outcome"] == outcome
    assert ("expired" in check["got"]) == (days < 0)
    if days > 0:
        assert f"{days}.0 days left" in check["got"]
        assert "trustme" in check["got"]


def test_an_index_and_a_queue_of_other_formats(tmp_path):
    index = tmp_path / "index.sqlite"
    flags = (*BEFORE, *settings(node__path=tmp_path))
    for version, outcome in ((VERSION, "passed"), (VERSION - 1, "warned"), (VERSION + 1, "failed")):
        db = sqlite3.connect(index)
        db.execute(f"PRAGMA user_version={version}")
        db.close()
        before = index.read_bytes()
        check = doctor(*flags)["formats"]
        assert (check["outcome"], index.read_bytes()) == (outcome, before)
        assert str(version) in check["got"]
    index.unlink()
    assert doctor(*flags)["formats"]["outcome"] == "skipped"
    entries = tmp_path / "file" / "queue" / "entries"
    entries.mkdir(parents=True)
    (entries / f"{1:016x}-{'ab' * 32}.put").write_bytes(b"KVQW" + (2).to_bytes(4, "little") + bytes(56))
    checks = doctor(*flags, code=1)
    assert outcomes(checks, "failed") == {"formats"}
    assert "write queue: 2" in checks["formats"]["got"]


@pytest.mark.parametrize(("age", "outcome"), [(3700, "failed"), (3420, "warned"), (10, "passed")])
def test_this_machines_own_tokens(tmp_path, age, outcome):
    token = tmp_path / "token"
    token.write_text(Signer.new(tmp_path / "signing").token(age=age))
    token.chmod(0o600)
    flags = (*BEFORE, *settings(node__path=tmp_path / "s"))
    for setting in ("router__node_credentials__token_file", "client__credentials__token_file"):
        check = doctor(*flags, *settings(**{setting: token}))["tokens"]
        assert check["outcome"] == outcome
        assert ("credentials: expired" in check["got"]) == (age == 3700)
    elsewhere = doctor(*flags, *settings(router__node_credentials__token_file=token), "--part", "node")
    assert elsewhere["tokens"]["outcome"] == "skipped"


def test_a_token_that_does_not_say_when_it_ends(tmp_path):
    (tmp_path / "token").write_text("of-another-kind")
    flags = settings(node__path=tmp_path / "s", client__credentials__token_file=tmp_path / "token")
    check = doctor(*BEFORE, *flags)["tokens"]
    assert check["outcome"] == "passed"
    assert "does not say" in check["got"]
