"""Tenants of one router and one node: each finds its own text and the public one, and nothing else at all."""

import itertools

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document, Public
from kvquilt.errors import BadRequestError, PermissionDeniedError, UnauthenticatedError, UnavailableError
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import eventually, in_thread, router_only, serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 120, 90))
QUESTION = [7, 8, 9, 10]
MASTER = "a master secret for tests, long enough"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


class Tenants:
    """Clients of one router, each as somebody else."""

    def __init__(self, address, signer):
        self._address = address
        self._signer = signer
        self._clients = []

    def client(self, name, *namespaces, namespace="", **rights):
        token = self._signer.token(name, *(namespaces or (name,)), **rights)
        self._clients.append(Client(self._address, Credentials(token=token, namespace=namespace)))
        return self._clients[-1]

    def close(self):
        for client in self._clients:
            client.close()


def running(model, tmp_path, **settings):
    tmp_path.mkdir(exist_ok=True)
    signer = Signer.new(tmp_path / "key")
    security = ServerSecurity(token_key=signer.public)
    options = {"security": security, "master_secret": MASTER, "background": False, "warm_up_passages": 0}
    return signer, serve(model, tmp_path / "store", **{**options, **settings})


@pytest.fixture
def tenants(model, tmp_path):
    signer, server = running(model, tmp_path)
    with server as address:
        found = Tenants(address, signer)
        yield found
        found.close()


def prefetch(client, document, content, prefix=PREFIX, **options):
    done = list(client.prefetch([Document(document, content)], shared_prefix=prefix, **options))
    assert not any(item.failed for item in done)
    return sum(item.stored for item in done)


def hits(client, *segments, prefix=PREFIX):
    """Which runs of a prompt are found; leaves nothing behind."""
    plan = client.plan([*segments, QUESTION], shared_prefix=prefix, policy="none")
    return [chunk.segment for chunk in plan.chunks if not chunk.miss_reason]


def test_a_tenant_finds_its_text_and_another_does_not(tenants):
    a, b = tenants.client("a"), tenants.client("b")
    prefetch(a, "text", TEXT)
    assert hits(a, TEXT) == [0, 1]
    assert hits(b, TEXT) == []
    assert hits(b, TEXT[:60], OTHER) == []
    plain = [*PREFIX, *OTHER, *TEXT, *QUESTION]
    assert a.blend_plain(plain, policy="none").report.tokens_reused == len(TEXT)
    assert b.blend_plain(plain, policy="none").report.tokens_computed == len(plain)
    assert prefetch(b, "text", TEXT) == 2, "prefix and text once more, under keys of its own"
    assert hits(b, TEXT) == [0, 1]


def test_a_tenant_forgets_its_own_document_whatever_another_calls_its(tenants):
    a, b = tenants.client("a"), tenants.client("b")
    for client in (a, b):
        prefetch(client, "text", TEXT)
    assert b.forget("@a/text").objects_deleted == 0
    assert b.forget("text").objects_deleted > 0
    assert hits(b, TEXT) == [0]
    assert hits(a, TEXT) == [0, 1]


def test_a_forgotten_namespace_is_missed_and_all_others_are_not(model, tmp_path):
    """Its warm-up passages, prefixes and waiting work go too: nothing brings back what was forgotten."""
    signer, server = running(model, tmp_path, background=True)
    with server as address:
        tenants = Tenants(address, signer)
        writer = tenants.client("writer", "w", public_write=True)
        a, b, operator = tenants.client("a"), tenants.client("b"), tenants.client("op", "*")
        prefetch(writer, "head", Public(OTHER), prefix=Public(PREFIX))
        for client in (a, b):
            prefetch(client, "text", TEXT, corpus="letters")
        for number in range(20):
            a.blend([[number + 3] * 40, QUESTION], shared_prefix=PREFIX)  # its chunks wait to be stored
        receipt = a.forget(everything=True)
        assert receipt.objects_deleted >= 2
        assert receipt.bytes_deleted > 0
        assert operator.status().counters["background_failed"] == 0
        found = status(operator)
        assert hits(a, TEXT) == []
        assert hits(a, *([number + 3] * 40 for number in range(20))) == []
        assert hits(a, Public(OTHER), prefix=Public(PREFIX)) == [0, 1]
        assert hits(b, TEXT) == [0, 1]
        assert prefetch(a, "text", TEXT, corpus="letters") == 2, "and begins anew"
        assert status(operator) == found + 2
        assert tenants.client("op", "*", namespace="b").forget(everything=True).objects_deleted >= 2
        assert hits(b, TEXT) == []
        with pytest.raises(BadRequestError, match="or none with everything"):
            a.forget("text", everything=True)
        with pytest.raises(PermissionDeniedError):
            tenants.client("a", "a", namespace="public").forget(everything=True)
        tenants.close()


def status(client):
    """Objects on all nodes."""
    return sum(node.objects for node in client.status().nodes)


def test_what_a_router_learns_of_one_tenant_serves_no_other(tenants):
    """Prefixes split plain prompts, corpora give warm-up passages: both would show what another tenant does."""
    a, b = tenants.client("a"), tenants.client("b")
    prefetch(a, "text", TEXT, corpus="letters", warm_up=[OTHER])
    plain = [*PREFIX, *TEXT, *QUESTION]
    # Where the prefix is known to end, the plan has a chunk of it.
    assert a.blend_plain(plain, policy="none").report.chunks[0].segment == 0
    assert b.blend_plain(plain, policy="none").report.chunks == ()


def test_a_public_head_is_shared_and_private_tails_are_not(tenants):
    writer = tenants.client("writer", "w", public_write=True)
    a, b = tenants.client("a"), tenants.client("b")
    head = Public(PREFIX)
    assert prefetch(writer, "head", Public(TEXT), prefix=head) == 2
    prefetch(a, "tail", OTHER, prefix=head)
    assert hits(a, Public(TEXT), OTHER, prefix=head) == [0, 1, 2]
    assert hits(b, Public(TEXT), OTHER, prefix=head) == [0, 1]
    assert hits(b, TEXT, OTHER, prefix=PREFIX) == [], "what is not marked is looked for among its own"
    assert hits(writer, Public(TEXT), Public(OTHER), prefix=head) == [0, 1], "nobody's tail is public"


def test_only_who_may_stores_public_text_and_only_after_public_text(tenants):
    a, writer = tenants.client("a"), tenants.client("writer", "w", public_write=True)
    with pytest.raises(PermissionDeniedError, match="public_write") as caught:
        prefetch(a, "text", Public(TEXT), prefix=Public(PREFIX))
    assert caught.value.reason == "public_write_denied"
    with pytest.raises(BadRequestError, match="after a public shared prefix"):
        prefetch(writer, "text", Public(TEXT), prefix=PREFIX)
    with pytest.raises(PermissionDeniedError):
        tenants.client("a", "a", namespace="public").forget("text")
    prefetch(writer, "text", Public(TEXT), prefix=Public(PREFIX))
    assert tenants.client("writer", "w", namespace="public", public_write=True).forget("text").objects_deleted == 1


def test_what_requests_leave_behind_stays_with_whom_they_were(model, tmp_path):
    signer, server = running(model, tmp_path, background=True, pair_bytes=1 << 30)
    with server as address:
        tenants = Tenants(address, signer)
        operator = tenants.client("operator", "*", namespace="o")
        a, b = tenants.client("a"), tenants.client("b")
        writer = tenants.client("writer", "w", public_write=True)
        head = Public(PREFIX)

        def left(client, *segments):
            before = operator.status().counters["background_stored"]
            client.blend([*segments, QUESTION], shared_prefix=head, policy="none")
            eventually(lambda: operator.status().counters["background_stored"] > before)

        left(a, OTHER, Public(TEXT))
        eventually(lambda: hits(a, OTHER, prefix=head) == [1])
        assert hits(b, OTHER, Public(TEXT), prefix=head) == []
        # The writer's public text was computed after a private one: that KV would show it.
        left(writer, OTHER, Public(TEXT))
        eventually(lambda: hits(b, Public(TEXT), prefix=head) == [0, 1])
        contexts = [c.context for c in b.plan([OTHER, Public(TEXT), QUESTION], shared_prefix=head).chunks]
        assert "exact" not in contexts[2:]
        assert "pair" not in contexts
        assert hits(b, OTHER, prefix=head) == [0]
        tenants.close()


def test_namespaces_that_cannot_be_are_refused(tenants, model, tmp_path):
    with pytest.raises(BadRequestError, match="a namespace to act in"):
        hits(tenants.client("operator", "*"), TEXT)
    with pytest.raises(PermissionDeniedError, match="one of the namespaces"):
        hits(tenants.client("a", "a", namespace="b"), TEXT)
    with serve(model, tmp_path / "open", background=False) as address:
        with Client(address, Credentials(namespace="b")) as client, pytest.raises(PermissionDeniedError):
            hits(client, TEXT)
        with Client(address) as client:
            assert hits(client, TEXT) == []
    signer, server = running(model, tmp_path / "none", master_secret=None)
    with server as address:
        with Client(address) as client, pytest.raises(UnauthenticatedError):
            client.status()
        with Client(address, Credentials(token=signer.token("a", "a"))) as client:
            assert [node.reachable for node in client.status().nodes] == [True]
            with pytest.raises(BadRequestError, match=r"set router\.master_secret"):
                hits(client, TEXT)


def test_figures_of_all_tenants_are_the_operators(tenants):
    a, operator = tenants.client("a"), tenants.client("operator", "*")
    prefetch(a, "text", TEXT)
    assert a.status().counters == {}
    (shown,), (known,) = a.status().nodes, operator.status().nodes
    assert (shown.reachable, shown.objects, shown.capacity_bytes, shown.calls) == (True, 0, 0, 0)
    assert operator.status().counters["documents_prefetched"] == 1
    assert known.objects == 2
    assert known.calls > 0


def test_namespaces_beyond_the_limit_begin_again_with_what_they_stored(model, tmp_path):
    signer, server = running(model, tmp_path, max_namespaces=1)
    with server as address:
        tenants = Tenants(address, signer)
        a, b = tenants.client("a"), tenants.client("b")
        for client in (a, b):
            prefetch(client, "text", TEXT)
        assert hits(a, TEXT) == hits(b, TEXT) == [0, 1]
        tenants.close()


def test_a_router_shows_its_nodes_who_it_is(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    node = NodeSettings(port=0, store="memory", security=ServerSecurity(token_key=signer.public))
    known = Credentials(token=signer.token("router-1", "*", public_write=True))
    with in_thread(lambda: running_node(node)) as first, in_thread(lambda: running_node(node)) as second:
        addresses = [first, second]
        options = {"background": False, "warm_up_passages": 0, "chunk_tokens": 16, "health_seconds": 0.05}
        with router_only(model, addresses, node_credentials=known, **options) as router, Client(router) as client:
            stored = prefetch(client, "text", TEXT)
            assert len(hits(client, TEXT)) == stored
            seen = client.status().nodes
            assert sum(node.objects for node in seen) == stored
            assert all(node.objects for node in seen)
            # A status is a call too, the others are health probes.
            asked = itertools.count(1)
            eventually(
                lambda: next(asked) < min(n.calls - s.calls for n, s in zip(client.status().nodes, seen, strict=True))
            )
            assert {(n.serving, n.breaker, n.failures) for n in client.status().nodes} == {(True, "closed", 0)}
        with router_only(model, addresses, **options) as router, Client(router) as client:
            report = client.blend([TEXT, QUESTION], shared_prefix=PREFIX).report
            assert {chunk.miss_reason for chunk in report.chunks} == {"node_refused"}
            assert not any(node.reachable for node in client.status().nodes)
            for call in (lambda: prefetch(client, "text", TEXT), lambda: client.forget("text")):
                with pytest.raises(UnavailableError, match=r"set router\.node_credentials") as caught:
                    call()
                assert caught.value.reason == "node_refused"
