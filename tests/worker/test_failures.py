"""A cache that fails costs a worker a deadline at most, and never an error."""

import asyncio
import socket
import threading
from contextlib import asynccontextmanager

import pytest

from kvquilt import Client
from kvquilt.errors import BadRequestError
from kvquilt.worker import Extent, KvToSave, ServedModel, WorkerCache, WorkerOptions
from kvquilt.worker.availability import Availability
from kvquilt.worker.types import COUNTERS
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_router.engine_thread import EngineThread
from kvquilt_router.router import running_router
from kvquilt_router.settings import RouterSettings
from kvquilt_rpc import frames
from kvquilt_rpc.counters import Counters
from tests.proxy import throttle, valve
from tests.stack import blobs, eventually, in_thread, router_only, serve
from tests.worker.conftest import Worker, asked, tokens

TEXT = tokens(500)
EXACT = asked(TEXT, extent=Extent.EXACT)
QUICK = WorkerOptions(probe_first=0.05, probe_last=0.1, probe_deadline=0.5)


def save(worker):
    """Save the text's KV, all of it."""
    assert worker.cache.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=len(TEXT)))
    worker.cache.settle()
    assert worker.cache.counters()["saves_done"] == 1


def beside(worker, address, **options):
    """The same worker at another address."""
    return Worker(worker.loaded, address, options=WorkerOptions(**{"probe_first": 0.05, "probe_last": 0.1, **options}))


class Valve:
    """Lets answers of a router through, or holds them back."""

    def __init__(self, target):
        self._target = target

    @asynccontextmanager
    async def running(self):
        self._loop, self._opened = asyncio.get_running_loop(), asyncio.Event()
        self._opened.set()
        async with valve(self._target, self._opened) as address:
            yield address

    def set(self, opened):
        self._loop.call_soon_threadsafe(self._opened.set if opened else self._opened.clear)


@pytest.fixture
def valved(worker):
    """A saved text behind a valve: the worker, and the valve."""
    save(worker)
    gate = Valve(worker.address)
    with in_thread(gate.running) as address:
        other = beside(worker, address)
        assert other.cache.plan(EXACT, 30).tokens > 400
        yield other, gate
        gate.set(True)
        other.cache.close()


def settings(port, node):
    return RouterSettings(port=port, nodes=node, profile="", chunk_tokens=64)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_a_router_that_is_not_there_is_asked_once_and_used_when_it_comes(tiny_model, tmp_path):
    port = free_port()
    worker = Worker(tiny_model, f"127.0.0.1:{port}", options=QUICK)
    plan, layers, report = worker.load(EXACT, deadline=5)
    assert (plan.extent, plan.reason, layers) == (Extent.NOTHING, "unavailable", {})
    assert (report.complete, report.kv_tokens) == (True, 0)
    for _ in range(3):
        assert worker.cache.plan(EXACT, 5).reason == "router_lost"
    assert not worker.cache.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=500))
    counters = worker.cache.counters()
    assert (counters["plans_failed"], counters["calls_skipped"], counters["router_lost"]) == (1, 4, 1)
    node = NodeSettings(port=0, path=tmp_path, fsync=False, drain_seconds=5)
    with (
        in_thread(lambda: running_node(node)) as address,
        in_thread(lambda: running_router(settings(port, address), tiny_model)),
    ):
        eventually(lambda: worker.cache.counters()["router_found"] == 1)
        save(worker)
        assert worker.load(EXACT)[2].kv_tokens > 400
    worker.cache.close()


def test_a_router_that_says_nothing_costs_one_deadline_until_it_speaks_again(valved):
    worker, gate = valved
    gate.set(False)
    plan = worker.cache.plan(EXACT, 0.3)
    assert (plan.tokens, plan.reason) == (0, "deadline")
    assert plan.seconds >= 0.3
    plan = worker.cache.plan(EXACT, 30)
    assert (plan.tokens, plan.reason) == (0, "router_lost")
    assert plan.seconds < 0.3
    gate.set(True)
    eventually(lambda: worker.cache.counters()["router_found"] == 1)
    assert worker.load(EXACT)[2].kv_tokens > 400


def test_a_fetch_that_gets_no_answer_is_not_complete(valved):
    worker, gate = valved
    plan = worker.cache.plan(EXACT, 30)
    gate.set(False)
    report = worker.cache.fetch(EXACT, plan, lambda *_: pytest.fail("nothing came"), 0.3)
    assert (report.complete, report.reason, report.kv_tokens) == (False, "deadline", 0)
    assert worker.cache.counters()["loads_failed"] == 1


@pytest.mark.parametrize(
    ("then", "fetch_deadline", "reasons"),
    [("close", 30.0, {"unavailable", "tls_handshake"}), ("hang", 3.0, {"deadline"})],
)
def test_layers_come_before_the_stream_ends_and_a_fetch_that_breaks_off_is_not_complete(
    worker, then, fetch_deadline, reasons
):
    save(worker)
    # The plan's answer and two of four layers.
    half = worker.model.layout.nbytes(448) * 5 // 8
    with in_thread(lambda: throttle(worker.address, 1 << 14, 0.0, half, then)) as address:
        other = beside(worker, address)
        plan, layers, report = other.load(EXACT, fetch_deadline=fetch_deadline)
        assert plan.tokens > 400
        assert 0 < len(layers) < 4
        assert (report.complete, report.kv_tokens, report.exact) == (False, 0, False)
        assert report.reason in reasons
        assert other.cache.counters()["loads_failed"] == 1
        # Something came: the router is there, for all that is known.
        assert other.cache.counters()["router_lost"] == 0
        other.cache.close()


@pytest.mark.parametrize("then", ["close", "hang"])
def test_a_node_that_breaks_off_makes_the_head_shorter_or_ends_the_stream(tiny_model, tmp_path, monkeypatch, then):
    """Layers are sent while chunks still come: of one that breaks off later, some were sent already."""
    monkeypatch.setattr(frames, "FRAME_BYTES", 4096)
    node = NodeSettings(port=0, path=tmp_path, fsync=False, drain_seconds=5)
    with in_thread(lambda: running_node(node)) as address:
        with router_only(tiny_model, address, chunk_tokens=4096) as router:
            worker = Worker(tiny_model, router)
            saving = KvToSave(
                asked(TEXT, prefix_tokens=0, document_tokens=(490,)), worker.computed(TEXT), exact_tokens=len(TEXT)
            )
            worker.cache.save(saving)
            worker.cache.settle()
            worker.cache.close()
        # Most of the chunk, which holds its second token block behind all layers of the first.
        (chunk,) = blobs(tmp_path)
        broken = lambda: throttle(address, 1 << 12, 0.0, chunk.stat().st_size * 7 // 8, then)  # noqa: E731
        with in_thread(broken) as slow, router_only(tiny_model, slow, fetch_deadline=1.0) as router:
            worker = Worker(tiny_model, router)
            request = asked(TEXT, extent=Extent.EXACT, prefix_tokens=0, document_tokens=(490,))
            plan, layers, report = worker.load(request)
            assert plan.kv_tokens == 490
            if then == "hang" or layers:
                assert 0 < len(layers) < 4
                assert (report.complete, report.reason) == (False, "fetch_failed")
            else:
                # It was lost before the first layer was sent.
                assert (report.complete, report.kv_tokens) == (True, 0)
            # A router that answers is not lost.
            assert worker.cache.counters()["router_lost"] == 0
            worker.cache.close()


def test_kv_of_another_model_is_neither_given_out_nor_taken(worker):
    save(worker)
    other = WorkerCache(ServedModel("0" * 64, worker.model.layout), worker.address)
    plan = other.plan(EXACT, 30)
    assert (plan.tokens, plan.reason) == (0, "unknown_model")
    assert other.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=500))
    other.settle()
    assert other.counters()["saves_failed"] == 1
    assert other.counters()["router_lost"] == 0
    other.close()


def test_another_layout_or_other_tokens_are_refused_before_anything_is_given_out(worker):
    save(worker)
    plan = worker.cache.plan(EXACT, 30)
    layout = type(worker.model.layout)(worker.model.layout.data_type, worker.model.layout.layers[:-1])
    other = WorkerCache(ServedModel(worker.model.fingerprint, layout), worker.address)
    report = other.fetch(EXACT, plan, lambda *_: pytest.fail("given out"), 30)
    assert (report.complete, report.reason) == (False, "fingerprint_mismatch")
    other.close()


def test_a_plan_that_cannot_be_is_answered_with_a_reason(worker):
    long = asked(tokens(20_000), extent=Extent.EXACT)
    assert worker.cache.plan(long, 30).reason == "prompt_too_long"
    assert worker.cache.plan(asked(TEXT, level="best"), 30).reason == "bad_request"
    assert worker.cache.plan(asked(TEXT, policy="another"), 30).reason == "unknown_policy"
    assert worker.cache.counters()["router_lost"] == 0


def test_what_a_sink_raises_ends_the_fetch_and_is_raised(worker):
    save(worker)
    plan = worker.cache.plan(EXACT, 30)

    def sink(layer, keys, values):
        raise BadRequestError(f"layer {layer}")

    with pytest.raises(BadRequestError, match="layer 0"):
        worker.cache.fetch(EXACT, plan, sink, 30)
    with pytest.raises(BadRequestError, match="layer 0"):
        worker.cache.fetch_soon(EXACT, plan, sink, 30).result()
    assert worker.load(EXACT)[2].complete


@pytest.mark.parametrize("drop_oldest", [False, True])
def test_saves_that_do_not_fit_are_dropped_and_counted(valved, drop_oldest):
    worker, gate = valved
    size = worker.model.layout.nbytes(100)
    worker.cache.close()
    worker = beside(worker, worker.address, save_bytes=3 * size + size // 2, drop_oldest=drop_oldest)
    texts = [tokens(100, seed=seed) for seed in range(20, 26)]
    gate.set(False)
    taken = [worker.cache.save(KvToSave(asked(text), worker.computed(text), exact_tokens=100)) for text in texts]
    # One is on its way, two wait; of those that come, or of those that wait, the rest is dropped.
    assert taken == ([True] * 6 if drop_oldest else [True] * 3 + [False] * 3)
    assert worker.cache.counters()["saves_dropped"] == 3
    gate.set(True)
    worker.cache.settle()
    assert worker.cache.counters()["saves_done"] == 3
    found = [bool(worker.cache.plan(asked(text, extent=Extent.EXACT), 30).tokens) for text in texts]
    kept = [True, False, False, False, True, True] if drop_oldest else [True] * 3 + [False] * 3
    assert found == kept
    worker.cache.close()


def test_closing_ends_everything_and_nothing_fails_after_it(valved):
    worker, gate = valved
    plan = worker.cache.plan(EXACT, 30)
    gate.set(False)
    fetching = worker.cache.fetch_soon(EXACT, plan, lambda *_: None, 600)
    eventually(lambda: worker.cache.counters()["loads"] == 1)
    worker.cache.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=500))
    worker.cache.close()
    assert not fetching.result(60).complete
    assert worker.cache.plan(EXACT, 30).reason == "closed"
    assert worker.cache.fetch(EXACT, plan, lambda *_: None, 30).reason == "closed"
    assert not worker.cache.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=500))
    worker.cache.settle()
    worker.cache.close()


async def test_a_call_that_ends_after_the_close_begins_no_probe():
    async def probe(_):
        raise AssertionError("closed")

    availability = Availability(probe, QUICK, Counters(COUNTERS))
    before = asyncio.all_tasks()
    await availability.close()
    availability.lost()
    assert asyncio.all_tasks() == before
    assert not availability.here


def test_requests_go_before_what_workers_save(tiny_model, tmp_path, monkeypatch):
    threads = []
    made = EngineThread.__init__
    monkeypatch.setattr(EngineThread, "__init__", lambda self, *given: (made(self, *given), threads.append(self))[0])
    with serve(tiny_model, tmp_path, chunk_tokens=64) as address, Client(address) as client:
        worker = Worker(tiny_model, address)
        done = threading.Event()
        running = threading.Thread(target=lambda: asyncio.run(threads[0].run(done.wait, 60)))
        running.start()
        eventually(lambda: threads[0].requests)
        assert worker.cache.save(KvToSave(asked(TEXT), worker.computed(TEXT), exact_tokens=500))
        eventually(lambda: client.status().counters["saves"] == 1)
        # Exact heads do not wait for the engine, nor for what is saved.
        assert worker.cache.plan(EXACT, 30).reason == "nothing_stored"
        assert client.status().counters["tokens_written"] == 0
        done.set()
        running.join()
        worker.cache.settle()
        assert client.status().counters["tokens_written"] > 400
        worker.cache.close()
