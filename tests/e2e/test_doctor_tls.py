"""`kvquilt doctor` of TLS between parts: real servers with certificates that are wrong, each in its own way."""

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_rpc.security import ServerSecurity
from tests import servers
from tests.e2e.doctoring import doctor, outcomes, settings
from tests.rpc.certificates import Authority
from tests.stack import in_thread

IDENTITIES = 'router.example: {namespaces: ["*"]}\n'


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.new(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return Authority.new(tmp_path_factory.mktemp("other"))


@contextmanager
def node(**security):
    chosen = NodeSettings(port=0, store="memory", security=ServerSecurity(**security))
    with in_thread(lambda: running_node(chosen)) as address:
        yield address


def looked(address, tmp_path, **credentials):
    """What is found of a router's node."""
    named = {f"router__node_credentials__{name}": value for name, value in credentials.items()}
    return doctor("--part", "router", "--node", address, *settings(**named))


def certificate(authority, name, *names, days=90.0):
    party = authority.issue(name, *names, expires=datetime.now(UTC) + timedelta(days=days))
    party.key.chmod(0o600)
    return party


def test_certificates_that_are_right_wrong_or_end(authority, other, tmp_path):
    cases = [
        (certificate(authority, "right", "127.0.0.1"), "passed", "days left"),
        (certificate(authority, "soon", "127.0.0.1", days=5), "warned", "5.0 days left"),
        (certificate(authority, "expired", "127.0.0.1", days=-1), "failed", "has expired"),
        (certificate(authority, "elsewhere", "cache.example"), "failed", "for another name"),
        (certificate(other, "foreign", "127.0.0.1"), "failed", "authority that is not trusted"),
    ]
    for party, outcome, words in cases:
        with node(tls_cert=party.cert, tls_key=party.key) as address:
            checks = looked(address, tmp_path, tls_ca=authority.pem)
        assert checks["tls"]["outcome"] == outcome, checks["tls"]
        assert words in checks["tls"]["got"]
        assert outcomes(checks, "failed") == ({"tls", "nodes"} if outcome == "failed" else set())


def test_tls_and_clear_text_that_are_mixed_up(authority, tmp_path):
    with node() as address:
        checks = looked(address, tmp_path, tls_ca=authority.pem)
        assert "it speaks clear text" in checks["tls"]["got"]
        assert "unset tls" in checks["tls"]["advice"]
    party = certificate(authority, "right", "127.0.0.1")
    with node(tls_cert=party.cert, tls_key=party.key) as address:
        checks = looked(address, tmp_path)
        assert "it speaks TLS" in checks["tls"]["got"]
        assert "tls_ca" in checks["tls"]["advice"]


def test_mutual_tls_both_ways(authority, other, tmp_path):
    identities = tmp_path / "identities.yaml"
    identities.write_text(IDENTITIES)
    party = certificate(authority, "right", "127.0.0.1")
    asking = {"tls_client_ca": authority.pem, "identities": identities}
    with node(tls_cert=party.cert, tls_key=party.key, **asking) as address:
        checks = looked(address, tmp_path, tls_ca=authority.pem)
        assert "asks for a certificate of the caller" in checks["tls"]["got"]
        for signer, days, outcome, words in (
            (authority, 90, "passed", "it checks the caller's certificate"),
            (other, 90, "failed", "refuses the caller's certificate"),
            (authority, -1, "failed", "refuses the caller's certificate"),
        ):
            own = certificate(signer, "router.example", days=days)
            checks = looked(address, tmp_path, tls_ca=authority.pem, tls_cert=own.cert, tls_key=own.key)
            assert checks["tls"]["outcome"] == outcome, checks["tls"]
            assert words in checks["tls"]["got"]
            assert ("certificates" in outcomes(checks, "failed")) == (days < 0)
            assert checks["nodes"]["outcome"] == outcome


@pytest.mark.skipif(servers.REDIS is None, reason="Debian's redis-server is not installed")
def test_a_redis_with_tls(tmp_path):
    pem = servers.certificates(tmp_path)
    pem.client_key.chmod(0o600)
    with servers.redis_tls(tmp_path / "redis", pem) as server:
        shared = ["--before-start", "--part", "node", *settings(node__store="redis", node__path=tmp_path / "node")]
        shared += settings(node__redis_url=f"rediss://127.0.0.1:{server.port}", node__redis_ca=pem.ca)
        own = settings(node__redis_certificate=pem.client, node__redis_key=pem.client_key)
        checks = doctor(*shared, *own, code=0)
        assert {"tls", "redis-rights", "certificates"} <= outcomes(checks, "passed")
        assert "checks the caller's certificate" in checks["tls"]["got"]
        checks = doctor(*shared, code=1)
        assert "asks for a certificate" in checks["tls"]["got"]
        checks = doctor(*shared, *settings(node__redis_ca=pem.other_ca), *own, code=1)
        assert "not trusted" in checks["tls"]["got"]
        plain = ["--before-start", "--part", "node", *settings(node__store="redis", node__path=tmp_path / "node")]
        plain += settings(node__redis_url=f"redis://127.0.0.1:{server.port}")
        assert "it speaks TLS" in doctor(*plain, code=1)["tls"]["got"]
