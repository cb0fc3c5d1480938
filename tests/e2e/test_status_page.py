"""The status page over HTTP: to whom it answers what, and that nobody can hold up the router with it."""

import asyncio
import http.client
import json
import socket
import ssl
import sys
from contextlib import ExitStack
from urllib.parse import urlsplit

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document
from kvquilt.errors import BadRequestError, NotFoundError, UnavailableError
from kvquilt_router.engine.model import prepare
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from kvquilt_router.status_page import bounded
from kvquilt_rpc.security import ServerSecurity
from tests.e2e.pages import OPTIONS, paged
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Authority, Signer
from tests.stack import eventually, in_thread, node_process, serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT = (_RNG.integers(3, 500, n).tolist() for n in (9, 200))
QUESTION = [7, 8, 9, 10]
MASTER = "a master secret for tests, long enough"
PLAIN = {"profile": "", "ungated": True}


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def ask(url, path="/status.json", method="GET", tls=None, **headers):
    """Status, headers and body of an answer; underscores in names of headers stand for dashes."""
    where = urlsplit(url)
    kind = http.client.HTTPConnection if tls is None else http.client.HTTPSConnection
    connection = kind(where.hostname, where.port, timeout=60, **({} if tls is None else {"context": tls}))
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        body = answer.read()
        return answer.status, answer.headers, json.loads(body) if path.startswith("/status.json") and body else body
    finally:
        connection.close()


def test_it_answers_reads_only_and_browsers_are_told_to_trust_nothing_else(model, tmp_path):
    with paged(model, tmp_path) as (router, url), Client(router) as client:
        list(client.prefetch([Document("a", TEXT)], shared_prefix=PREFIX))
        report = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report
        code, headers, page = ask(url, "/")
        assert (code, headers.get_content_type()) == (200, "text/html")
        assert b"/*S" not in page, "style and script are in it"
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "unsafe" not in policy
        assert {"frame-ancestors 'none'", "connect-src 'self'", "form-action 'none'"} <= set(policy.split("; "))
        code, headers, data = ask(url, f"/status.json?request={report.request_id}", Origin="http://elsewhere")
        assert code == 200
        assert not [name for name in headers if name.lower().startswith("access-control")], "no other origin may read"
        assert (headers["Cache-Control"], headers["X-Content-Type-Options"]) == ("no-store", "nosniff")
        assert data["request"]["tokens_exact"] == report.tokens_exact == len(PREFIX) + len(TEXT)
        assert [request["request_id"] for request in data["requests"]] == [report.request_id]
        assert not any("text" in patch for patch in data["request"]["patches"])
        assert "token_ids" not in json.dumps(data)
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert ask(url, "/", method)[0] == 405
        assert ask(url, "/nowhere")[0] == 404
        code, _, data = ask(url, "/status.json?request=" + "0" * 32)
        assert (code, data["error"]["reason"]) == (404, "unknown_request")


@pytest.mark.parametrize(
    ("host", "code"),
    [
        ("127.0.0.1", 200),
        ("localhost:81", 200),
        ("[::1]:7", 200),
        ("10.1.2.3", 200),
        ("page.example:80", 200),
        ("PAGE.example.", 200),
        ("evil.example", 400),
        ("localhost.evil.example", 400),
        ("127.0.0.1.evil.example", 400),
        ("", 400),
    ],
)
def test_only_names_of_its_own_are_answered(model, tmp_path, host, code):
    """A page whose name was made to lead here would else be allowed to read."""
    with paged(model, tmp_path, status_names="page.example") as (_, url):
        for path in ("/", "/status.json"):
            assert ask(url, path, Host=host)[0] == code


def test_with_tokens_each_caller_gets_what_is_its_own(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    security = ServerSecurity(token_key=signer.public, calls_per_second=10)
    options = {"security": security, "master_secret": MASTER}
    with paged(model, tmp_path / "store", **options) as (router, url):

        def told(path="/status.json", name="a", namespaces=("a",)):
            return ask(url, path, Authorization=f"Bearer {signer.token(name, *namespaces)}")

        ids = {}
        for name in ("a", "b"):
            with Client(router, Credentials(token=signer.token(name, name))) as client:
                ids[name] = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report.request_id
        assert ask(url, "/")[0] == 200, "which holds nothing"
        code, headers, data = ask(url)
        assert (code, headers["WWW-Authenticate"], data["error"]["reason"]) == (401, "Bearer", "token_missing")
        for wrong in ("Bearer nonsense", "Basic YTpi", "Bearer " + "x" * 9000):
            code, _, data = ask(url, Authorization=wrong)
            assert (code, list(data)) == (401, ["error"])
        code, _, data = told()
        assert [request["request_id"] for request in data["requests"]] == [ids["a"]]
        assert data["status"]["usage"].keys() == {"a"}
        assert data["status"]["queues"] == []
        assert {node["used_bytes"] for node in data["status"]["nodes"]} == {"0"}, "those of all together"
        assert ids["b"] not in json.dumps(data)
        code, _, data = told(f"/status.json?request={ids['b']}")
        assert (code, data["error"]["reason"]) == (404, "unknown_request")
        assert told(f"/status.json?request={ids['a']}")[0] == 200
        _, _, data = told(name="operator", namespaces=("*",))
        assert {request["request_id"] for request in data["requests"]} == set(ids.values())
        assert {queue["name"] for queue in data["status"]["queues"]} == {
            "background",
            "audits",
            "blends",
            "loads",
            "saves",
        }
        with Client(router, Credentials(token=signer.token("operator", "*"))) as client:
            assert client.status().counters["calls_unauthenticated"] == 4
        codes = {told(name="busy")[0] for _ in range(200)}
        assert codes == {200, 429}, "the limits of an identity hold here too"


def test_text_is_told_to_its_owner_where_the_router_is_set_to(model, tmp_path):
    from tests.router.letters import letter_tokenizer

    lettered = prepare(tiny(*SUPPORTED["llama"]), letter_tokenizer(), "tiny")
    with paged(lettered, tmp_path, status_text=True) as (router, url), Client(router) as client:
        report = client.blend(["My secret.", "What is it?"]).report
        _, _, data = ask(url, f"/status.json?request={report.request_id}")
        assert "My secret." in "".join(patch["text"] for patch in data["request"]["patches"])
        assert "secret" not in json.dumps(data["requests"])


def test_it_speaks_tls_where_the_router_does_and_takes_new_certificates(model, tmp_path):
    authority, signer = Authority.new(tmp_path / "one"), Signer.new(tmp_path / "key")
    names = ("localhost", "localhost", "127.0.0.1")
    own = authority.issue(*names)
    security = ServerSecurity(tls_cert=own.cert, tls_key=own.key, token_key=signer.public)
    with paged(model, tmp_path / "store", security=security, master_secret=MASTER) as (_, url):
        assert url.startswith("https://")
        token = f"Bearer {signer.token('a', 'a')}"
        assert ask(url, tls=ssl.create_default_context(cafile=authority.pem), Authorization=token)[0] == 200
        with pytest.raises(ssl.SSLError):
            ask(url, tls=ssl.create_default_context(), Authorization=token)
        other = Authority.new(tmp_path / "other")
        new = other.issue(*names)
        own.key.write_bytes(new.key.read_bytes())
        own.cert.write_bytes(new.cert.read_bytes())
        assert ask(url, tls=ssl.create_default_context(cafile=other.pem), Authorization=token)[0] == 200


def test_where_callers_need_a_certificate_so_do_browsers(model, tmp_path):
    authority, signer = Authority.new(tmp_path / "one"), Signer.new(tmp_path / "key")
    own, caller = authority.issue("127.0.0.1"), authority.issue("caller")
    security = ServerSecurity(tls_cert=own.cert, tls_key=own.key, tls_client_ca=authority.pem, token_key=signer.public)
    with paged(model, tmp_path / "store", security=security, master_secret=MASTER) as (_, url):
        tls = ssl.create_default_context(cafile=authority.pem)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            ask(url, tls=tls, Authorization=f"Bearer {signer.token('a', 'a')}")
        tls.load_cert_chain(caller.cert, caller.key)
        assert ask(url, tls=tls)[0] == 401, "and a token too"
        assert ask(url, tls=tls, Authorization=f"Bearer {signer.token('a', 'a')}")[0] == 200


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"status_host": "unix:/tmp/page"}, "browsers know no Unix sockets"),
        ({"status_host": "0.0.0.0"}, "asked who they are"),  # noqa: S104
        ({"status_host": "page.example"}, "asked who they are"),
    ],
)
def test_settings_that_would_show_it_to_everybody_are_refused(model, settings, words):
    async def started():
        async with running_router(RouterSettings(port=0, status_port=0, **PLAIN, **settings), model):
            pytest.fail("it started")

    with pytest.raises(BadRequestError, match=words):
        asyncio.run(started())


def test_a_port_that_is_taken_ends_the_start_and_none_is_the_default(model, tmp_path):
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(UnavailableError, match="the status page on"),
        paged(model, tmp_path / "a", status_port=taken.getsockname()[1]),
    ):
        pytest.fail("it started")
    assert RouterSettings().status_port is None


def test_without_its_packages_the_start_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    monkeypatch.delitem(sys.modules, "kvquilt_router.status_page.app", raising=False)
    with pytest.raises(BadRequestError, match=r"kvquilt\[status\]"), serve(model, tmp_path, status_port=0):
        pytest.fail("it started")


def test_connections_are_bounded_in_number_and_time_and_requests_go_on(model, tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "CONNECTION_SECONDS", 3.0)
    with paged(model, tmp_path) as (router, url), Client(router) as client, ExitStack() as stack:
        where = urlsplit(url)
        held = [stack.enter_context(socket.create_connection((where.hostname, where.port))) for _ in range(200)]
        for connection in held:
            connection.settimeout(60)
        held[0].sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n")  # and never an end
        assert client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report.tokens_computed
        ended = [_ended(connection) for connection in held]
        assert all(ended), "those beyond the bound at once, the others after their time"
        eventually(lambda: ask(url)[0] == 200)
        large = f"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: {'x' * (1 << 20)}\r\n\r\n".encode()
        with socket.create_connection((where.hostname, where.port)) as sender:
            sender.settimeout(60)
            try:
                sender.sendall(large)
                answer = sender.recv(64)
            except OSError:
                answer = b""
            assert not answer.startswith(b"HTTP/1.1 2")


def _ended(connection):
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def test_a_node_that_is_gone_is_shown_and_the_page_goes_on(model, tmp_path):
    with node_process(tmp_path) as (process, node):
        settings = RouterSettings(port=0, nodes=node, stat_deadline=0.5, **PLAIN, **OPTIONS, status_port=_free())
        with in_thread(lambda: running_router(settings, model)):
            url = f"http://127.0.0.1:{settings.status_port}/"
            assert ask(url)[2]["status"]["nodes"][0]["reachable"] is True
            process.kill()
            process.wait(30)
            eventually(lambda: ask(url)[2]["status"]["nodes"][0]["reachable"] is False)


def _free():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_nothing_is_shown_of_a_namespace_that_was_forgotten_and_of_requests_that_leave_nothing_behind(model, tmp_path):
    with paged(model, tmp_path) as (router, url), Client(router) as client:
        client.blend([TEXT, QUESTION], shared_prefix=PREFIX, transient=True)
        assert ask(url)[2]["requests"] == []
        report = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report
        assert len(ask(url)[2]["requests"]) == 1
        client.forget(everything=True)
        assert ask(url)[2]["requests"] == []
        with pytest.raises(NotFoundError):
            client.requests(report.request_id)
