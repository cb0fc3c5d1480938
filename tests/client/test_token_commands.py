"""`kvquilt token`: what the commands make is what servers take."""

import json
import time

import pytest
from typer.testing import CliRunner

from kvquilt.cli.main import app
from kvquilt_rpc.callers import Identity
from kvquilt_rpc.tokens import TokenVerifier

RUN = CliRunner()


def run(*words, code=0):
    result = RUN.invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return result


@pytest.mark.parametrize("shared", [False, True], ids=["pair", "secret"])
def test_a_token_of_the_commands_is_verified(tmp_path, shared):
    key = tmp_path / "key"
    made = json.loads(run("token", "key", key, "--json", *(["--shared"] if shared else [])).stdout)
    assert made["signs"] == str(key)
    arguments = ["--key", key, "--identity", "x", "--namespace", "a", "--namespace", "b", "--expires", "2h"]
    token = run("token", "create", *arguments, "--public-write").stdout.strip()
    verified = TokenVerifier(tmp_path / made["verifies"], time.time).verify(token)
    assert verified == Identity("x", ("a", "b"), public_write=True)
    path = tmp_path / "token"
    told = json.loads(run("token", "create", *arguments, "--output", path, "--json").stdout)
    assert told["expires_unix_seconds"] == pytest.approx(time.time() + 7200, abs=60)
    assert path.read_text().strip() not in json.dumps(told)
    assert path.stat().st_mode & 0o777 == 0o600
    assert not TokenVerifier(tmp_path / made["verifies"], time.time).verify(path.read_text().strip()).public_write


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        (["--expires", "0h"], 2),
        (["--expires", "tomorrow"], 2),
        (["--namespace", "a/b"], 2),
        (["--identity", "x y"], 2),
        (["--key", "missing"], 3),
    ],
)
def test_what_makes_no_token_is_refused(tmp_path, changed, code):
    run("token", "key", tmp_path / "key")
    run("token", "key", tmp_path / "key", code=2)
    given = {"--key": tmp_path / "key", "--identity": "x", "--namespace": "a"} | dict([changed])
    result = run("token", "create", *(word for pair in given.items() for word in pair), code=code)
    assert "expected" in result.output


def test_config_show_hides_secrets(monkeypatch):
    secret = "a-secret-that-nobody-may-see" * 2
    monkeypatch.setenv("KVQUILT_TOKEN", secret)
    monkeypatch.setenv("KVQUILT_ROUTER__MASTER_SECRET", secret)
    for form in ([], ["--json"]):
        output = run("config", "show", *form).output
        assert secret not in output
        assert "KVQUILT_TOKEN" in output.replace("\n", "")


@pytest.mark.parametrize(
    ("setting", "code", "said"),
    [
        ("node.host=0.0.0.0", 2, "allow_anonymous"),
        ("router.host=0.0.0.0", 2, "allow_anonymous"),
        ("router.security.tls_cert=cert.pem", 2, "together"),
        ("router.security.token_key=missing", 3, "missing"),
        ("router.namespace=team", 2, "router.master_secret"),
        ("router.master_secret=short", 2, "at least 32 bytes"),
    ],
)
def test_config_check_refuses_what_no_server_starts_with(setting, code, said):
    result = run("config", "check", "--set", setting, code=code)
    assert said in result.output
