"""Faults of the cache in real requests: the answer stays right, and the reason is counted."""

import os
import signal

import pytest

from kvquilt import Client, Document
from kvquilt_codec import container
from tests.proxy import proxy
from tests.stack import blobs, in_thread, node_process, router_only, serve
from tests.texts import PASSAGES, QUESTION

DOCUMENT = Document("long", "".join(PASSAGES[:4]))
SEGMENTS = [DOCUMENT.content, QUESTION]


EXACT = {"warm_up_passages": 0}
"""Without warm-up passages a document right after the shared prefix is found in its exact context."""


def missed(report):
    return {chunk.miss_reason for chunk in report.chunks if chunk.miss_reason}


def test_a_node_that_is_killed_while_a_blend_streams(smollm2, reference, tmp_path):
    with node_process(tmp_path) as (node, address):
        with router_only(smollm2, address, **EXACT) as router, Client(router) as client:
            (done,) = client.prefetch([DOCUMENT])
            assert done.failed == 0
        stored = done.stored_bytes
        with (
            in_thread(lambda: proxy(address, stored // 2, node.kill)) as through,
            router_only(smollm2, through, background=False, **EXACT) as router,
            Client(router) as client,
        ):
            filled = reference.cache(client).fill(SEGMENTS, policy="none")
            assert node.wait(30) == -signal.SIGKILL
            assert missed(filled.report) == {"node_unavailable"}
            assert filled.report.fetched_bytes > 0
            # The only document follows the shared prefix: computed or exact, it must equal a full prefill.
            reference.assert_equal(filled)
            assert client.status().counters["chunks_missed_node_unavailable"] >= 1
            # The next request does not wait for the dead node either.
            again = reference.cache(client).fill(SEGMENTS, policy="none")
            assert missed(again.report) == {"node_unavailable"}
            reference.assert_equal(again)


def test_a_node_that_hangs_costs_the_deadline_and_nothing_else(smollm2, reference, tmp_path):
    with node_process(tmp_path) as (node, address):
        settings = {"stat_deadline": 0.5, "fetch_deadline": 0.5, "background": False, **EXACT}
        with router_only(smollm2, address, **settings) as router, Client(router) as client:
            list(client.prefetch([DOCUMENT]))
            os.kill(node.pid, signal.SIGSTOP)
            try:
                filled = reference.cache(client).fill(SEGMENTS, policy="none")
            finally:
                os.kill(node.pid, signal.SIGCONT)
            assert missed(filled.report) == {"lookup_deadline"}
            reference.assert_equal(filled)
            # Recovery needs no hand.
            assert reference.cache(client).fill(SEGMENTS).report.hit


def test_a_node_that_hangs_in_the_middle_of_a_stream(smollm2, reference, tmp_path):
    with node_process(tmp_path) as (node, address):
        with router_only(smollm2, address, **EXACT) as router, Client(router) as client:
            (done,) = client.prefetch([DOCUMENT])
        stop = lambda: os.kill(node.pid, signal.SIGSTOP)  # noqa: E731
        settings = {"fetch_deadline": 1.0, "background": False, **EXACT}
        with (
            in_thread(lambda: proxy(address, done.stored_bytes // 2, stop)) as through,
            router_only(smollm2, through, **settings) as router,
            Client(router) as client,
        ):
            filled = reference.cache(client).fill(SEGMENTS, policy="none")
            os.kill(node.pid, signal.SIGCONT)
            assert missed(filled.report) == {"fetch_deadline"}
            reference.assert_equal(filled)


def test_without_any_node_everything_is_computed(smollm2, reference):
    with router_only(smollm2, "127.0.0.1:1", background=False) as router, Client(router) as client:
        filled = reference.cache(client).fill(SEGMENTS)
        assert missed(filled.report) == {"node_unavailable"}
        reference.assert_equal(filled)
        assert not client.status().nodes[0].reachable
        (done,) = client.prefetch([DOCUMENT])
        assert done.stored == 0
        assert done.failed == 2
        assert done.failure_reason


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_objects_are_missed_dropped_and_stored_anew(smollm2, reference, tmp_path, damage):
    with serve(smollm2, tmp_path, background=False, **EXACT) as router, Client(router) as client:
        list(client.prefetch([DOCUMENT]))
        path = max(blobs(tmp_path), key=lambda blob: blob.stat().st_size)
        data = bytearray(path.read_bytes())
        if damage == "flip":
            data[len(data) // 2] ^= 1
            path.write_bytes(data)
        elif damage == "truncate":
            path.write_bytes(data[: len(data) // 2])
        else:
            path.unlink()
        filled = reference.cache(client).fill(SEGMENTS, policy="none")
        assert missed(filled.report) == {"not_stored" if damage == "delete" else "damaged"}
        reference.assert_equal(filled)
        (again,) = client.prefetch([DOCUMENT])
        assert (again.stored, again.present) == (1, 1)
        assert reference.cache(client).fill(SEGMENTS).report.hit


def test_kv_of_another_model_under_the_right_key_is_not_used(smollm2, reference, tmp_path):
    with serve(smollm2, tmp_path, background=False, **EXACT) as router, Client(router) as client:
        list(client.prefetch([DOCUMENT]))
        path = max(blobs(tmp_path), key=lambda blob: blob.stat().st_size)
        path.write_bytes(_with_fingerprint(path.read_bytes(), "f" * 64))
        filled = reference.cache(client).fill(SEGMENTS, policy="none")
        assert missed(filled.report) == {"fingerprint_mismatch"}
        reference.assert_equal(filled)


def test_a_store_that_is_too_small_fails_the_put_and_no_request(smollm2, reference, tmp_path):
    with serve(smollm2, tmp_path, capacity=1 << 20, **EXACT) as router, Client(router) as client:
        (done,) = client.prefetch([DOCUMENT])
        assert done.failed == 1
        assert "cap" in done.failure_reason
        reference.assert_equal(reference.cache(client).fill(SEGMENTS, policy="none"))
        assert client.status().nodes[0].used_bytes <= 1 << 20


def test_when_the_router_is_gone_the_worker_computes(smollm2, reference, tmp_path):
    with serve(smollm2, tmp_path) as router:
        client = Client(router)
        cache = reference.cache(client)
        assert cache.fill(SEGMENTS).report is not None
    filled = cache.fill(SEGMENTS)
    client.close()
    assert filled.report is None
    assert filled.fallback_reason == "unavailable"
    assert filled.past_key_values.get_seq_length() == 0
    reference.assert_equal(filled)


def _with_fingerprint(data: bytes, fingerprint: str) -> bytes:
    """The same container, its header naming another model, checksums made to match."""
    import msgspec
    import numpy as np

    from kvquilt_codec.container.head import PREFIX, SECTION, build_head

    head = container.parse_head(data)
    size = PREFIX.unpack_from(data)[3]
    index = np.frombuffer(data, SECTION, count=len(head.sections), offset=PREFIX.size + size)
    header = msgspec.structs.replace(head.header, model_fingerprint=fingerprint)
    return build_head(header, index) + data[head.head_bytes :]
