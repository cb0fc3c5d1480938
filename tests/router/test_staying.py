"""Times to live and pins from the client's end: through a router with a tiny model, to a node."""

import time

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_codec.errors import BadRequestError
from kvquilt_router.engine.model import prepare
from tests.e2e.commands import answer
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, serve

PREFIX = [5, 6, 7]
TTL = 1.0


@pytest.fixture(scope="module")
def documents():
    rng = np.random.default_rng(0)
    return [Document(name, rng.integers(3, 500, 30).tolist()) for name in ("short-lived", "kept", "pinned")]


def found(client, documents):
    """Which of them a blend would find."""
    chunks = client.plan([*(document.content for document in documents), [9, 9]], shared_prefix=PREFIX).chunks
    return [not chunk.miss_reason for chunk in chunks if chunk.segment]


def test_what_a_prefetch_gives_a_ttl_is_missed_after_it_and_pins_keep_what_they_are_told_to(tmp_path, documents):
    model = prepare(tiny(*SUPPORTED["llama"]), None, "tiny")
    with serve(model, tmp_path, background=False) as router, Client(router) as client:
        short_lived, kept, pinned = documents
        for ttl in (0.0, -1.0, float("nan")):
            with pytest.raises(BadRequestError, match="TTL"):
                list(client.prefetch([kept], shared_prefix=PREFIX, ttl=ttl))
        list(client.prefetch([kept], shared_prefix=PREFIX))
        list(client.prefetch([pinned], shared_prefix=PREFIX, ttl=60 * TTL))
        assert client.pin("pinned", "unknown").objects == 1
        begin = time.monotonic()
        list(client.prefetch([short_lived], shared_prefix=PREFIX, ttl=TTL))
        (again,) = client.prefetch([kept], shared_prefix=PREFIX, ttl=TTL)
        assert again.stored == 0, "what is stored keeps the TTL that it has: none"
        while found(client, documents)[0]:
            assert time.monotonic() < begin + 60
            time.sleep(0.05)
        assert time.monotonic() - begin >= TTL, "not before its time"
        assert found(client, documents) == [False, True, True]
        segments = [short_lived.content, [9, 9]]
        eventually(lambda: client.why(segments=segments, shared_prefix=PREFIX).chunks[-1].cause == "expired")
        (node,) = client.status().nodes
        assert node.pinned_bytes > 0
        (report,) = answer("unpin", "pinned", "--router", router)
        assert (report["objects"], report["pinned_bytes"]) == (1, 0)
        assert found(client, documents) == [False, True, True], "it has its own TTL again"
        (report,) = answer("pin", "kept", "--seconds", 3600, "--router", router)
        assert report["objects"] == 1
        assert 0 < report["pinned_bytes"] <= report["limit_bytes"]
        assert client.forget("kept").objects_deleted == 1, "forgetting wins"
        assert client.status().nodes[0].pinned_bytes == 0
