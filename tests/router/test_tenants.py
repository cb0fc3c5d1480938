"""Which namespaces a router remembers, and where their callers may store."""

import pytest

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.tenants import Acting, Tenant, Tenants
from kvquilt_router.types import Prompt
from tests.router.test_planning import PROMPT, planner

MASTER = b"m" * 32


def tenant(namespace):
    return Tenant(planner(namespace=namespace), None, None, None, None, None, None, None, None)


def test_the_latest_namespaces_are_remembered_and_public_always():
    forgotten = []
    tenants = Tenants(tenant, MASTER, 2, forgotten.append)
    a = tenants.of("a")
    assert tenants.of("b") is tenants.of("b")
    assert tenants.of("a") is a
    tenants.of("c")
    assert (tenants.of("a"), forgotten) == (a, ["b"])
    assert tenants.of("public") is tenants.public
    assert forgotten == ["b"]
    assert tenants.of("b").planner.namespace == tenants.of("b").planner.namespace


def test_a_namespace_takes_a_master_secret():
    tenants = Tenants(tenant, b"", 2)
    assert tenants.of("public").planner.namespace.name == "public"
    with pytest.raises(BadRequestError, match=r"set router\.master_secret") as caught:
        tenants.of("a")
    assert caught.value.reason == "no_master_secret"
    with pytest.raises(BadRequestError, match="expected a namespace"):
        Tenants(tenant, MASTER, 2).of("../a")


def test_a_forgotten_namespace_begins_anew():
    forgotten = []
    tenants = Tenants(tenant, MASTER, 9, forgotten.append)
    a, b, public = tenants.of("a"), tenants.of("b"), tenants.public
    tenants.forget("a")
    tenants.forget("public")
    assert tenants.of("a") is not a
    assert tenants.of("b") is b
    assert tenants.of("public") is tenants.public is not public
    assert forgotten == ["a", "public"]


@pytest.mark.parametrize("known_prefix", [True, False])
@pytest.mark.parametrize("public", [frozenset(), frozenset({2}), frozenset({1, 2})])
def test_a_public_chunk_is_stored_after_public_text_only(known_prefix, public):
    tenants = Tenants(tenant, MASTER, 9)
    prompt = Prompt(PROMPT.prefix, PROMPT.documents, PROMPT.question, public=public, known_prefix=known_prefix)
    own = tenants.of("a").planner
    second = own.chunk(prompt.documents[0], None, 2, 0, 2 in public)
    for may_write, may_write_public in ((True, True), (True, False), (False, True)):
        acting = Acting(tenants.of("a"), tenants.public, may_write, may_write_public)
        alone, following = (acting.may_store(second, prompt, after) for after in (0, 2))
        if 2 not in public:
            assert (alone, following) == (may_write, may_write)
            assert acting.of(second) is acting.tenant
        else:
            assert alone == (may_write_public and known_prefix)
            assert following == (alone and 1 in public)
            assert acting.of(second) is acting.public
