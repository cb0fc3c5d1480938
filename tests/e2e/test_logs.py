"""What servers write while real requests succeed and fail: the request in every line, and no secret in any."""

import contextlib
import io
import json
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kvquilt import Client, Credentials, Document
from kvquilt.errors import KvquiltError
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.redis_blobs import RedisBlobs
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.logs import LogSettings, hide, logging_to
from kvquilt_rpc.security import Credentials as NodeCredentials
from kvquilt_rpc.security import ServerSecurity
from tests import servers
from tests.router.families import SUPPORTED, tiny
from tests.router.letters import letter_tokenizer
from tests.rpc.certificates import Signer
from tests.stack import eventually, in_thread, router_only, serve

DEBUG = LogSettings(format="json", level="debug", lines_per_second=100_000)
QUIET = {"background": False, "warm_up_passages": 0}
LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), letter_tokenizer(), "tiny")


def lines(stream):
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_lines_of_a_request_have_its_id_at_the_router_and_at_the_nodes_it_calls(model, tmp_path):
    rng = np.random.default_rng(0)
    text, question = rng.integers(3, 400, 120).tolist(), [7, 8, 9]
    with io.StringIO() as stream, logging_to(DEBUG, stream):
        with serve(model, tmp_path, **QUIET) as address, Client(address) as client:
            assert not any(done.failed for done in client.prefetch([Document("one", text)], shared_prefix=[3, 4]))
            reports = [client.blend([text, question], shared_prefix=[3, 4]).report for _ in range(2)]
            eventually(lambda: stream.getvalue().count("RouterService/Blend: OK") == 2)
        found = lines(stream)
    first, second = (report.request_id for report in reports)
    assert first != second
    for request_id in (first, second):
        own = [line for line in found if line.get("request_id") == request_id]
        called = {line["message"].split(":")[0].rpartition("/")[2] for line in own}
        assert {"Blend", "FindVariants", "GetChunks"} <= called
        assert {line["namespace"] for line in own} == {"public"}
        assert {line["model"] for line in own} == {model.fingerprint[:16]}
    for line in found:
        if "kvquilt.v1" in line["message"] and "Service/" in line["message"]:
            assert re.fullmatch("[0-9a-f]{32}", line["request_id"]), line


@contextlib.contextmanager
def planted(password, master, folder, model):
    """A router and a node on a Valkey with a password, each of which asks who calls; the node's store, and a signer."""
    signer = Signer.new(folder / "key")
    asks = ServerSecurity(token_key=signer.public)
    folder.joinpath("valkey").mkdir()
    with servers.valkey(folder / "valkey", "--requirepass", password) as valkey:
        url = f"redis://:{password}@{servers.HOST}:{valkey.port}"
        store = {"store": "redis", "redis_url": url, "redis_timeout": 2.0, "memory_bytes": 0, "path": folder / "index"}
        node = NodeSettings(port=0, security=asks, drain_seconds=1, **store)
        with in_thread(lambda: running_node(node)) as address:
            router = {
                "security": asks,
                "master_secret": master,
                "node_credentials": NodeCredentials(token=signer.token("router", "*", public_write=True)),
                "stat_deadline": 5,
                "put_deadline": 5,
                "fetch_deadline": 5,
            }
            with router_only(model, address, **router, **QUIET) as target:
                yield target, address, valkey, signer


SECRET = st.text(LETTERS + LETTERS.upper() + "0123456789", min_size=10, max_size=40)
PROMPT = st.text(LETTERS + " ", min_size=90, max_size=200)


_ONCE = (Phase.explicit, Phase.generate)
"""A failing example is not made smaller: each takes seconds."""


@settings(
    max_examples=3, phases=_ONCE, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(password=SECRET, master=st.text(LETTERS, min_size=32, max_size=40), s3=SECRET, text=PROMPT, other=PROMPT)
def test_no_secret_and_no_text_is_in_any_line_whatever_fails(
    model, tmp_path_factory, password, master, s3, text, other
):
    """At the level debug, through requests that succeed, are refused, find the store gone, and hit faults of ours."""
    folder = tmp_path_factory.mktemp("planted")
    hide(password), hide(master), hide(s3)  # as `kvquilt node` and `kvquilt router` do with what their settings hold
    sent = []
    with io.StringIO() as stream, logging_to(DEBUG, stream), pytest.MonkeyPatch.context() as patch:
        with planted(password, master, folder, model) as (target, node, valkey, signer):
            token, forged = signer.token("tenant", "a"), signer.token("tenant", "b")[:-8] + "AAAAAAAA"
            sent += [token, forged]
            with Client(target, Credentials(token=token)) as client:
                requests(client, text, other)
                with contextlib.suppress(KvquiltError):
                    client.why(text[:32])
                patch.setattr(RedisBlobs, "write", fault(f"redis://:{password}@h said {other!r}"))
                patch.setattr(RedisBlobs, "pieces", fault(f"a fault that quotes {text!r} and {password}"))
                requests(client, other, text + " of today")
                patch.undo()
                valkey.process.kill()
                requests(client, other + " again", text)
            for refused in (forged, text):
                with contextlib.suppress(KvquiltError), Client(target, Credentials(token=refused)) as stranger:
                    stranger.status()
            with contextlib.suppress(KvquiltError), Client(node, Credentials(token=forged)) as lost:
                lost.status()
            for url in (f"redis://:{password}wrong@{servers.HOST}:{valkey.port}", "redis://nobody:1"):
                opened(NodeSettings(port=0, store="redis", redis_url=url, path=folder / "other", redis_timeout=0.5))
            s3_settings = {"object_endpoint": "http://127.0.0.1:1", "object_key_id": "AKIAABCDEFGHIJKLMNOP"}
            opened(
                NodeSettings(
                    port=0, store="object", object_url="s3://bucket/x", object_secret=s3, object_retries=0,
                    object_timeout=1, path=folder / "object", **s3_settings,
                )
            )  # fmt: skip
        written = stream.getvalue()
    assert len(written.splitlines()) > 30
    assert "unforeseen error" in written
    assert '"level":"warning"' in written
    halves = [half for whole in (text, other) for half in (whole[:40], whole[-40:])]
    tokens = [part for whole in sent for part in whole.split(".")[1:]]
    for secret in (password, master, s3, "AKIAABCDEFGHIJKLMNOP", *halves, *tokens):
        assert secret not in written, secret
    assert not re.search(r"(\d+, ){7}", written), "no run of token ids"
    assert not re.search(r"[0-9a-f]{40,}", written), "no key in full"


def requests(client, *texts):
    """What a tenant does, whatever becomes of it."""
    with contextlib.suppress(KvquiltError):
        list(client.prefetch([Document(f"doc{number}", text) for number, text in enumerate(texts)]))
    with contextlib.suppress(KvquiltError):
        client.blend([*texts, "what is it"])
    with contextlib.suppress(KvquiltError):
        client.blend_plain(" ".join(texts))
    with contextlib.suppress(KvquiltError):
        list(client.prefetch([Document(texts[0], texts[0]), Document(texts[0], texts[1])]))
    with contextlib.suppress(KvquiltError):
        client.forget("doc0")


def fault(message):
    def failing(*_, **__):
        raise RuntimeError(message)

    return failing


def opened(node):
    """A node that may not be able to open its store."""
    with contextlib.suppress(KvquiltError), in_thread(lambda: running_node(node)) as address, Client(address) as client:
        client.status()


def run(*arguments, send=None, **environment):
    """A server in a process of its own, ended by a signal once it is ready; its exit code and standard error."""
    command = [sys.executable, "-m", "kvquilt", *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        ready = process.stdout.readline()
        if ready:
            process.send_signal(send or signal.SIGTERM)
        _, said = process.communicate(timeout=300)
    return process.returncode, said


def test_all_that_a_server_writes_to_its_log_is_json_if_that_is_asked_for(tmp_path):
    folder = tmp_path / "model"
    tiny(*SUPPORTED["llama"]).save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    flags = ("--log-format", "json", "--port", "0", "--node-port", "0", "--data-dir", tmp_path / "store")
    code, said = run("serve", "--model", folder, *flags)
    found = [json.loads(line) for line in said.splitlines()]
    assert code == 0
    assert {"time", "level", "logger", "message"} <= set(found[0])
    assert "draining" in {line["message"] for line in found}


def test_a_server_that_cannot_start_says_so_in_its_log_without_the_password(tmp_path):
    url = "redis://:hunter22@127.0.0.1:1"
    flags = ("--set", f"node.redis_url={url}", "--set", "node.store=redis", "--data-dir", tmp_path)
    code, said = run("node", "--log-format", "json", "--set", "log.level=debug", *flags)
    found = [json.loads(line) for line in said.splitlines()]
    assert (code, found[-1]["level"]) == (5, "critical")
    assert "127.0.0.1:1" in found[-1]["message"]
    assert "hunter22" not in said
    code, said = run("node", *flags)
    assert code == 5
    assert "hunter22" not in said


def test_lines_for_people_are_what_a_server_writes_by_default(tmp_path):
    code, said = run("node", "--port", "0", "--data-dir", tmp_path)
    assert code == 0
    for line in said.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} [A-Z]+ kvquilt[\w.]*: ", line), line
