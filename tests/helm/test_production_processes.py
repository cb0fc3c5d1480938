"""The production's manifests, run: two nodes on S3 and a Redis with TLS, a router, mutual TLS, tokens, encryption."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import obstore
import pytest
from obstore.store import S3Store

from drills.tiny_model import TOLERANCE, FullPrefill
from kvquilt import Client, Credentials
from kvquilt.errors import UnauthenticatedError
from kvquilt_codec.container.head import MAGIC
from tests.helm.chart import host
from tests.helm.placed import Placed, Started
from tests.helm.releases import production
from tests.helm.running import SERVING, health, started
from tests.servers import HOST, REDIS, S3_BUCKET, S3_KEY_ID, S3_SECRET
from tests.stack import eventually

pytestmark = pytest.mark.skipif(REDIS is None, reason="TLS takes the redis-server of the operating system")

PREFIX, TEXT, QUESTION = list(range(11, 27)), list(range(30, 230)), [5, 6, 7, 8]
OPTIONS = {"shared_prefix": PREFIX, "level": "lossless", "policy": "none"}


@dataclass(frozen=True)
class Release:
    """The production's parts, running, and as whom to call them."""

    placed: Placed
    nodes: list[tuple[Started, subprocess.Popen[str]]]
    router: Started
    credentials: Credentials
    expected: FullPrefill
    endpoint: str

    @property
    def target(self) -> str:
        return f"{HOST}:{self.router.port}"


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Release]:
    with ExitStack() as stack:
        found = stack.enter_context(production(tmp_path_factory.mktemp("release")))
        placed = found.placed
        nodes = []
        for replica in range(2):
            node = placed.process("kvquilt-node", replica)
            process, _ = stack.enter_context(started(node, **found.identity))
            nodes.append((node, process))
        every = ",".join(f"{HOST}:{node.port}" for node, _ in nodes)
        placed.addresses[f"dns:///{host('kvquilt-nodes')}:7411"] = every
        router = placed.process("kvquilt-router-chat")
        stack.enter_context(started(router))
        expected = FullPrefill(found.model, [*PREFIX, *TEXT, *QUESTION[:-1]])
        yield Release(placed, nodes, router, found.credentials, expected, found.endpoint)


def test_probes_are_answered_without_tls_and_tokens(release: Release) -> None:
    for part in (release.router, *(node for node, _ in release.nodes)):
        assert health(part.health) == health(part.health, "liveness") == SERVING


def test_who_has_no_token_is_refused(release: Release) -> None:
    anonymous = Credentials(tls_ca=release.placed.authority.pem)
    with Client(release.target, credentials=anonymous) as client, pytest.raises(UnauthenticatedError):
        client.blend([TEXT, QUESTION], **OPTIONS)


def test_a_text_is_stored_and_served_and_outlives_the_node_that_stored_it(release: Release) -> None:
    with Client(release.target, credentials=release.credentials) as client:
        first = client.blend([TEXT, QUESTION], **OPTIONS)
        assert first.report.tokens_exact < len(TEXT)
        eventually(lambda: client.blend([TEXT, QUESTION], **OPTIONS).report.tokens_exact >= len(TEXT))
        for _, process in release.nodes[:1]:
            os.kill(process.pid, signal.SIGTERM)
            assert process.wait(120) == 0
        served = client.blend([TEXT, QUESTION], **OPTIONS)
    assert served.report.tokens_exact >= len(TEXT)
    assert max(map(release.expected.difference, (first, served))) < TOLERANCE


def test_what_is_in_the_bucket_is_sealed(release: Release) -> None:
    bucket = S3Store(
        S3_BUCKET,
        prefix="production",
        endpoint=release.endpoint,
        access_key_id=S3_KEY_ID,
        secret_access_key=S3_SECRET,
        client_options={"allow_http": True},
    )
    stored = [bytes(obstore.get(bucket, found["path"]).bytes()) for found in obstore.list(bucket).collect()]
    assert stored
    assert not [data for data in stored if MAGIC in data]
