"""What requests report of their use of the cache, and the sums that its owner sees: a real router, node and model."""

from collections import Counter

import numpy as np
import pytest

from kvquilt import Client, Credentials
from kvquilt_router.engine.model import prepare
from kvquilt_rpc.security import ServerSecurity
from tests.router.families import SUPPORTED, tiny
from tests.rpc.certificates import Signer
from tests.stack import eventually, serve

RNG = np.random.default_rng(0)
PREFIX, TEXT, OTHER = (RNG.integers(3, 500, n).tolist() for n in (9, 120, 90))
QUESTION = [7, 8, 9, 10]
REPORTED = {
    "tokens_exact": "tokens_exact",
    "tokens_reused": "tokens_reused",
    "tokens_recomputed": "tokens_recomputed",
    "tokens_computed": "tokens_computed",
    "bytes_fetched": "fetched_bytes",
}


def written(state):
    """Whether all that the node holds is counted; a variant may be between the two."""
    return state.usage["public"]["bytes_written"] == state.nodes[0].used_bytes


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def test_a_request_reports_what_it_took_and_gave_and_the_sums_agree(model, tmp_path):
    with serve(model, tmp_path, warm_up_passages=0) as address, Client(address) as client:
        reports = [client.blend([TEXT, OTHER, QUESTION], shared_prefix=PREFIX, policy="none").report]
        first = reports[0]
        assert first.tokens_computed == first.tokens_queued + len(QUESTION)
        assert first.saved_seconds < 0, "a look-up that finds nothing costs time"
        assert first.prefill_seconds_per_token > 0
        eventually(lambda: client.status().counters["tokens_written"] >= first.tokens_queued)
        reports.append(client.blend([TEXT, OTHER, QUESTION], shared_prefix=PREFIX, policy="none").report)
        second = reports[1]
        assert second.tokens_exact == len(PREFIX) + len(TEXT) + len(OTHER)
        assert second.tokens_queued == 0, "all of it is stored"
        most = (second.tokens_exact + second.tokens_recomputed) * second.prefill_seconds_per_token
        assert most - second.seconds["total"] <= second.saved_seconds <= most
        eventually(lambda: written(client.status()))
        state = client.status()
        own = state.usage["public"]
        for counter, field in REPORTED.items():
            assert own[counter] == sum(getattr(report, field) for report in reports), counter
        net = sum(report.saved_seconds for report in reports) * 1000
        assert own["milliseconds_saved"] - own["milliseconds_lost"] == pytest.approx(net, abs=len(reports))
        assert own["blends"] == 2
        assert own.items() <= state.counters.items(), "there is no other namespace"


def test_each_tenant_sees_its_own_sums_and_an_operator_all(model, tmp_path):
    signer = Signer.new(tmp_path / "key")
    security = ServerSecurity(token_key=signer.public)
    options = {"security": security, "master_secret": "a master secret for tests, long enough", "background": False}
    with serve(model, tmp_path / "store", **options) as address:

        def calling(name, *namespaces):
            return Client(address, Credentials(token=signer.token(name, *namespaces)))

        with calling("a", "a") as a, calling("b", "b") as b, calling("operator", "*") as operator:
            for client, text in ((a, TEXT), (a, OTHER), (b, OTHER)):
                client.blend([text, QUESTION], shared_prefix=PREFIX)
            seen = {name: client.status() for name, client in (("a", a), ("b", b), ("all", operator))}
    assert seen["a"].counters == seen["b"].counters == {}
    assert {name: sums["blends"] for name, sums in seen["a"].usage.items()} == {"a": 2}
    assert {name: sums["blends"] for name, sums in seen["b"].usage.items()} == {"b": 1}
    assert seen["all"].usage.keys() == {"a", "b", "public"}
    together = Counter()
    for sums in seen["all"].usage.values():
        together.update(sums)
    assert together.items() <= seen["all"].counters.items()
