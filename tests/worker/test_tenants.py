"""What workers of one tenant save is not there for those of another."""

import pytest

from kvquilt import Client, Credentials
from kvquilt.worker import Extent, KvToSave
from kvquilt_rpc.security import ServerSecurity
from tests.rpc.certificates import Signer
from tests.stack import serve
from tests.worker.conftest import Worker, asked, assert_layers, tokens

MASTER = "a master secret for tests, long enough"
TEXT = tokens(10, 150, 80)
PUBLIC = {"prefix_tokens": 10, "document_tokens": (150,), "public": frozenset({0, 1})}


@pytest.fixture
def workers(tiny_model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    security = ServerSecurity(token_key=signer.public)
    found = []

    with serve(tiny_model, tmp_path / "store", chunk_tokens=64, security=security, master_secret=MASTER) as address:

        def worker(name, *namespaces, **rights):
            token = signer.token(name, *(namespaces or (name,)), **rights)
            found.append(Worker(tiny_model, address, credentials=Credentials(token=token)))
            return found[-1]

        yield worker
        for each in found:
            each.cache.close()


def save(worker, **options):
    saving = KvToSave(asked(TEXT, **options), worker.computed(TEXT), exact_tokens=len(TEXT))
    assert worker.cache.save(saving)
    worker.cache.settle()
    return saving.layers


def exact(worker, **options):
    return worker.cache.plan(asked(TEXT, extent=Extent.EXACT, **options), 30)


def test_another_tenant_finds_nothing_and_saves_its_own(workers):
    a, b = workers("a"), workers("b")
    save(a)
    assert exact(a).kv_tokens > 0
    assert exact(b).reason == "nothing_stored"
    # Tells nobody that somebody else has the text: all of it is taken again.
    save(b)
    assert b.cache.counters()["tokens_saved"] == a.cache.counters()["tokens_saved"] > 0
    assert b.cache.counters()["bytes_saved"] > 0


def test_a_worker_of_several_tenants_says_with_each_request_whose_it_is(workers):
    both = workers("both", "a", "b")
    layers = save(both, namespace="b")
    assert exact(both).reason == exact(both, namespace="a").reason == "nothing_stored"
    plan, got, _ = both.load(asked(TEXT, extent=Extent.EXACT, namespace="b"))
    assert_layers(got, layers, 0, plan.kv_tokens)
    assert exact(both, namespace="c").reason == "namespace_denied"
    assert not both.cache.counters()["router_lost"]


def test_public_text_is_saved_for_all_only_by_those_who_may(workers):
    reader, writer, other = workers("reader"), workers("writer", public_write=True), workers("other")
    save(reader, **PUBLIC)
    assert reader.cache.counters()["saves_failed"] == 1
    assert exact(other, **PUBLIC).reason == "nothing_stored"
    layers = save(writer, **PUBLIC)
    assert writer.cache.counters()["saves_failed"] == 0
    plan, got, _ = other.load(asked(TEXT, extent=Extent.EXACT, **PUBLIC))
    # What follows the public document is the writer's own.
    assert plan.kv_tokens == 160
    assert exact(writer, **PUBLIC).kv_tokens > 160
    assert_layers(got, layers, 0, 160)


def test_a_public_document_after_one_that_is_not_stays_private(workers):
    """Its KV shows what preceded it."""
    writer, other = workers("writer", public_write=True), workers("other")
    options = {"prefix_tokens": 10, "document_tokens": (70, 80), "public": frozenset({0, 2})}
    save(writer, **options)
    assert writer.cache.counters()["saves_failed"] == 1
    assert exact(other, **options).kv_tokens == 10
    assert exact(writer, **options).kv_tokens == 80


def test_what_is_forgotten_is_gone_for_workers_too(workers):
    a = workers("a")
    saving = KvToSave(asked(TEXT), a.computed(TEXT), exact_tokens=len(TEXT), document_ids=("session",))
    a.cache.save(saving)
    a.cache.settle()
    assert exact(a).kv_tokens > 0
    with Client(a.address, a.credentials) as client:
        assert client.forget("session").objects_deleted > 0
    assert exact(a).reason == "nothing_stored"
