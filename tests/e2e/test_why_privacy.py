"""What a tenant is told of misses: of its own namespaces all, of others nothing, neither in words nor in time."""

import time

import numpy as np
import pytest

from kvquilt import Client, Credentials, Document, Public
from kvquilt.errors import NotFoundError
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.node_traces import NodeTraces
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import serve

_RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (_RNG.integers(3, 500, n).tolist() for n in (9, 120, 90))
QUESTION = [7, 8, 9, 10]


@pytest.fixture(scope="module")
def router(tmp_path_factory):
    folder = tmp_path_factory.mktemp("router")
    signer = Signer.new(folder / "key")
    settings = {
        "security": ServerSecurity(token_key=signer.public),
        "master_secret": "a master secret for tests, long enough",
        "background": False,
        "warm_up_passages": 0,
        "stat_deadline": 30.0,  # on a busy machine too nothing is missed for its time
    }
    with serve(prepare(tiny(*SUPPORTED["llama"]), None, "tiny"), folder / "store", **settings) as address:
        yield address, signer


@pytest.fixture
def tenant(router):
    address, signer = router
    clients = []

    def client(name, *namespaces, namespace=""):
        token = signer.token(name, *(namespaces or (name,)), public_write=True)
        clients.append(Client(address, Credentials(token=token, namespace=namespace)))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


def prefetch(client, content, prefix=PREFIX):
    assert not any(item.failed for item in client.prefetch([Document("text", content)], shared_prefix=prefix))


def explained(client, content=TEXT, prefix=PREFIX):
    return client.why(segments=[content, QUESTION], shared_prefix=prefix)


def test_what_another_tenant_stored_or_forgot_looks_like_what_nobody_ever_did(tenant):
    a, b = tenant("a1"), tenant("b1")
    before = explained(b)
    assert [chunk.cause for chunk in before.chunks] == ["never_stored", "never_stored"]
    prefetch(a, TEXT)
    assert explained(b) == before
    assert explained(b, [*TEXT[:60], 499, *TEXT[61:]]).chunks[1].divergence is None
    a.forget("text")
    assert explained(b) == before


def test_who_owns_both_namespaces_is_told_where_it_is(tenant):
    prefetch(tenant("a2"), TEXT)
    both = tenant("both", "b2", "a2")
    found = explained(both).chunks[1]
    assert (found.cause, found.namespace) == ("other_namespace", "a2")
    stranger = tenant("other", "c2", "d2")
    assert explained(stranger).chunks[1].cause == "never_stored"
    assert explained(tenant("a2")).chunks[1].outcome == "exact"


def test_public_text_is_told_to_everybody(tenant):
    prefetch(tenant("a3"), Public(OTHER), prefix=[])
    found = explained(tenant("b3"), OTHER, prefix=[]).chunks[0]
    assert (found.cause, found.namespace) == ("other_namespace", "public")


def test_a_request_can_be_asked_about_in_its_namespace_only(tenant):
    a, b, operator = tenant("a4"), tenant("b4"), tenant("operator", "*", namespace="a4")
    report = a.blend([[3] * 40, QUESTION], shared_prefix=[4, 5]).report
    assert operator.why(report.request_id) == a.why(report.request_id)
    told = []
    for request_id in (report.request_id, "0" * 32):
        with pytest.raises(NotFoundError) as caught:
            b.why(request_id)
        told.append(str(caught.value).replace(request_id, "ID"))
    assert told[0] == told[1], "another's request is told from none"
    with pytest.raises(NotFoundError):
        tenant("both", "b4", "a4").why(report.request_id)


def test_with_a_namespace_goes_what_is_known_of_its_requests_and_of_what_left_it(tenant):
    a = tenant("a6")
    prefetch(a, TEXT)
    report = a.blend([TEXT, QUESTION], shared_prefix=PREFIX).report
    assert a.why(report.request_id).chunks[1].outcome == "exact"
    assert a.forget(everything=True).objects_deleted == 2
    with pytest.raises(NotFoundError) as caught:
        a.why(report.request_id)
    assert caught.value.reason == "unknown_request"
    assert [chunk.cause for chunk in explained(a).chunks] == ["never_stored", "never_stored"]


def test_neither_the_work_nor_its_time_depends_on_what_another_tenant_stored(tenant, monkeypatch):
    a, b = tenant("a5"), tenant("b5")
    rng = np.random.default_rng(5)
    stored, absent = ([rng.integers(3, 500, 60).tolist() for _ in range(40)] for _ in range(2))
    for number, text in enumerate(stored):
        list(a.prefetch([Document(f"text {number}", text)], shared_prefix=PREFIX))
    asked = []
    trace = NodeTraces.trace

    async def counted(self, places, **options):
        asked.append(len(places))
        return await trace(self, places, **options)

    monkeypatch.setattr(NodeTraces, "trace", counted)
    work, seconds = {True: set(), False: set()}, {True: [], False: []}
    explained(b, absent[0])
    for pair in zip(stored, absent, strict=True):
        for there, text in zip((True, False), pair, strict=True):
            asked.clear()
            began = time.perf_counter()
            why = explained(b, text)
            seconds[there].append(time.perf_counter() - began)
            assert [chunk.cause for chunk in why.chunks] == ["never_stored", "never_stored"]
            work[there].add(tuple(asked))
    assert work[True] == work[False]
    assert len(work[True]) == 1
    assert likely_the_same(seconds[True], seconds[False])


def likely_the_same(first, second):
    """Mann-Whitney U, by the normal approximation: whether |z| is below 4.4, which chance exceeds once in 100,000."""
    ranks = np.argsort(np.argsort([*first, *second])) + 1
    n, m = len(first), len(second)
    u = ranks[:n].sum() - n * (n + 1) / 2
    return abs(u - n * m / 2) / np.sqrt(n * m * (n + m + 1) / 12) < 4.4


def test_the_test_of_times_would_notice_a_tenth_of_the_time():
    rng = np.random.default_rng(0)
    times = rng.normal(1.0, 0.05, 80)
    assert likely_the_same(times[:40], times[40:])
    assert not likely_the_same(times[:40], times[40:] + 0.1)
