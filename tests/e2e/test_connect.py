"""`kvquilt connect` at real routers: what it prints is what engines read, and what does not fit is refused."""

import json
import shlex
import shutil
from dataclasses import replace

import pytest
import torch
from typer.testing import CliRunner

from kvquilt import Client, Credentials
from kvquilt.cli.main import app
from kvquilt.connecting.types import Asked
from kvquilt.connecting.warnings import warnings
from kvquilt.integrations.lmcache.settings import parsed
from kvquilt.integrations.vllm.options import parse_settings
from kvquilt_codec.types import DataType
from kvquilt_router.engine.model import load_model, resolve
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import router_only, serve

LLAMA = (SUPPORTED["llama"][0], {"vocab_size": 49152})
"""With as many tokens as the demo model's tokenizer."""
MASTER = "a master secret for tests, long enough"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as engines load it: configuration, weights, tokenizer."""
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny(*LLAMA).save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(resolve("smollm2") / name, path)
    return path


@pytest.fixture(scope="module")
def router(folder, tmp_path_factory):
    with serve(load_model(str(folder)), tmp_path_factory.mktemp("store"), ungated=False) as address:
        yield address


def printed(engine, *arguments, code=0):
    words = ["connect", engine, *map(str, arguments)]
    result = CliRunner().invoke(app, [*words, "--json"], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return json.loads(result.stdout if code == 0 else result.stderr)


def pasted(line, flag):
    """What a shell makes of a line: the word after a flag."""
    words = shlex.split(line)
    return words[words.index(flag) + 1]


def test_vllm_gets_flags_that_name_router_model_and_type(router, folder):
    found = printed("vllm", "--router", router, "--model", folder, "--namespace", "salt=a=team-a")
    (line,) = found["lines"]
    assert shlex.split(line)[:5] == ["vllm", "serve", str(folder), "--dtype", "float32"]
    config = json.loads(pasted(line, "--kv-transfer-config"))
    assert config == found["config"]
    assert (config["kv_role"], config["kv_load_failure_policy"]) == ("kv_both", "recompute")
    assert config["kv_connector_extra_config"] == {
        "target": router,
        "model_fingerprint": found["model_fingerprint"],
        "namespaces": {"salt=a": "team-a"},
    }
    assert found["verified"]
    assert parse_settings(config["kv_connector_extra_config"]).target == router


def test_lmcache_gets_the_nodes(router, folder, tmp_path):
    found = printed("lmcache", "--router", router, "--model", folder, "--no-weights")
    (line,) = found["lines"]
    config = json.loads(pasted(line, "--l2-adapter"))
    assert config == found["config"]
    status = json.loads(CliRunner().invoke(app, ["status", "--router", router, "--json"]).stdout)
    params = config["adapter_params"]
    assert params["nodes"] == [node["target"] for node in status["nodes"]]
    assert params["models"][str(folder)]["head_dim"] == 16
    assert not found["verified"]
    refused = printed("lmcache", "--router", router, "--namespace", "s=team-a", code=2)
    assert "--master-secret-file" in refused["error"]["message"]
    (tmp_path / "secret").write_text(MASTER)
    secret = ["--namespace", "s=team-a", "--master-secret-file", tmp_path / "secret"]
    named = printed("lmcache", "--router", router, "--node", "10.0.0.1:1,10.0.0.2:1", *secret)
    settings = parsed(named["config"]["adapter_params"])
    assert (settings.nodes, settings.namespaces) == (("10.0.0.1:1", "10.0.0.2:1"), {"s": "team-a"})
    assert settings.master_secret() == MASTER.encode()
    assert parsed(params).model(str(folder)).head_dim == 16


def test_the_lines_for_transformers_run(router, folder):
    found = printed("transformers", "--router", router, "--model", folder)
    assert found["verified"]
    loaded = load_model(str(folder))
    words = {"document": "One thing is so.", "another": "Another one is too.", "question": "What is?"}
    space = {"model": loaded.engine._runner.model, "tokenizer": loaded.tokenizer, **words}
    exec("\n".join(found["lines"]), space)  # noqa: S102  what the command printed
    try:
        assert space["filled"].fallback_reason in ("", "nothing_stored"), "the router was asked"
        assert space["output"].shape[1] > space["filled"].input_ids.shape[1]
    finally:
        space["cache"].close()


def test_another_model_is_refused_by_its_shape_and_by_its_weights(router, folder, tmp_path):
    shape = shutil.copytree(folder, tmp_path / "shape")
    config = json.loads((shape / "config.json").read_text())
    (shape / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 5}))
    refused = printed("vllm", "--router", router, "--model", shape, code=4)["error"]
    assert refused["reason"] == "fingerprint_mismatch"
    assert "layers 4" in refused["message"]
    weights = shutil.copytree(folder, tmp_path / "weights")
    changed = tiny(*LLAMA)
    with torch.no_grad():
        changed.get_input_embeddings().weight[0, 0] += 1
    changed.save_pretrained(weights)
    assert not printed("vllm", "--router", router, "--model", weights, "--no-weights")["verified"]
    assert "weights" in printed("vllm", "--router", router, "--model", weights, code=4)["error"]["message"]
    printed("vllm", "--router", router, "--model", tmp_path, code=3)
    (weights / "config.json").write_text("[]")
    printed("vllm", "--router", router, "--model", weights, code=2)


def test_what_keeps_an_engine_from_gaining_is_told(router, folder, tmp_path):
    def told(*arguments):
        return " ".join(printed("vllm", "--router", router, *arguments)["warnings"])

    plain = told()
    assert "kvquilt calibrate" in plain
    assert "cache_salt" in plain
    assert "--model" in plain
    assert "TLS" not in plain
    halved = shutil.copytree(folder, tmp_path / "halved")
    config = json.loads((halved / "config.json").read_text())
    (halved / "config.json").write_text(json.dumps(config | {"dtype": "bfloat16"}))
    assert "router.dtype=bfloat16" in told("--model", halved, "--no-weights")
    with router_only(load_model(str(folder)), ["127.0.0.1:1"]) as lonely, Client(lonely) as client:
        status = client.status()
    (model,) = status.models
    asked = Asked("cache.example:7410", Credentials(), status, model)
    halved = replace(asked, model=replace(model, layout=replace(model.layout, data_type=DataType.BFLOAT16)))
    assert [sum("--dtype bfloat16 --kl 5e-3 " in text for text in warnings(each)) for each in (asked, halved)] == [0, 1]
    assert [sum(word in text for text in warnings(asked)) for word in ("without TLS", "no cache node")] == [1, 1]
    assert not any("without TLS" in text for text in warnings(replace(asked, credentials=Credentials(tls=True))))


def test_credentials_are_printed_as_files_and_never_as_a_token(folder, tmp_path):
    signer = Signer.new(tmp_path / "key")
    token = signer.token("app", "team-a")
    (tmp_path / "token").write_text(token)
    security = {"security": ServerSecurity(token_key=signer.public), "master_secret": MASTER}
    with serve(load_model(str(folder)), tmp_path / "store", **security) as router:
        given = ["--set", f"client.credentials.token_file={tmp_path / 'token'}"]
        extra = printed("vllm", "--router", router, *given)["config"]["kv_connector_extra_config"]
        assert extra["credentials"] == {"token_file": str(tmp_path / "token")}
        result = CliRunner().invoke(
            app, ["connect", "vllm", "--router", router, "--set", f"client.credentials.token={token}"]
        )
        assert result.exit_code == 2
        assert token not in result.output
        printed("vllm", "--router", router, code=8)


def test_nothing_running_says_what_to_start_first():
    refused = printed("vllm", "--router", "127.0.0.1:1", code=5)["error"]["message"]
    assert "kvquilt serve" in refused


def test_people_get_the_line_alone_on_standard_output(router):
    result = CliRunner().invoke(app, ["connect", "vllm", "--router", router], catch_exceptions=False)
    (line,) = result.stdout.splitlines()
    assert line.startswith("vllm serve MODEL --dtype float32 --enable-prompt-tokens-details --kv-transfer-config ")
    assert "note" in result.stderr
