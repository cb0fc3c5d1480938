"""Spans where nobody traces, where somebody does, and where the collector is gone."""

import asyncio
import os
import socket
import subprocess
import sys
import textwrap
from contextlib import AsyncExitStack

import pytest
from opentelemetry.trace import StatusCode

from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_rpc import exporting, spans
from kvquilt_rpc.exporting import TracingSettings, wanted
from kvquilt_rpc.nodes import ObjectRef, PoolOptions, open_nodes
from tests.rpc.nodes.cluster import DEADLINE, OBJECTS, called, one_store, own_stores, put_all, whole
from tests.rpc.nodes.test_failures import SHORT, valve
from tests.tracing import attributes, tracing

WITHOUT = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, **(environment or {})}
    )


CALLS = """
import asyncio, sys
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_rpc.node_client import NodeClient
import kvquilt, kvquilt.worker
async def main():
    async with running_node(NodeSettings(port=0, store="memory", drain_seconds=0)) as address:
        client = NodeClient(address)
        assert await client.stat([bytes(32)], deadline=60) == {}
        await client.close()
asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith("opentelemetry")))
"""


@pytest.mark.parametrize("before", ["", WITHOUT], ids=["installed", "not installed"])
def test_nothing_of_opentelemetry_is_loaded_where_nobody_traces(before: str) -> None:
    done = python(before + CALLS)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


COMMAND = "from kvquilt.cli.main import main\nmain()"


def test_a_server_that_is_told_to_export_says_what_it_lacks() -> None:
    node = ("node", "--port", "0", "--set", "node.store=memory", "--set", "tracing.endpoint=http://127.0.0.1:1")
    done = python(WITHOUT + COMMAND, *node)
    assert done.returncode == 2
    assert "pip install 'kvquilt[otel]'" in " ".join(done.stderr.split())


def test_variables_that_are_for_everybody_stop_no_server_that_cannot_follow_them() -> None:
    code = """
    import asyncio, logging, sys
    from kvquilt_rpc.exporting import TracingSettings, exporting
    logging.basicConfig(level=logging.INFO)
    with exporting(TracingSettings(), "kvquilt-node"):
        print("served")
    """
    done = python(WITHOUT + textwrap.dedent(code), environment={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"})
    assert done.stdout == "served\n"
    assert "kvquilt[otel]" in done.stderr


def test_who_exports_is_said_by_a_setting_or_by_opentelemetrys_own_variables() -> None:
    unset, endpoint = TracingSettings(), {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4317"}
    assert not wanted(unset, {})
    assert wanted(TracingSettings(endpoint="https://collector:4317"), {})
    assert wanted(unset, endpoint)
    assert not wanted(unset, {**endpoint, "OTEL_SDK_DISABLED": "true"})
    assert not wanted(unset, {**endpoint, "OTEL_TRACES_EXPORTER": "none"})


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://c:1", "http://user:password@collector:4317", "http://"])
def test_an_endpoint_that_is_none_or_holds_a_password_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="OTEL_EXPORTER_OTLP_HEADERS"):
        TracingSettings(endpoint=endpoint)


def test_a_protocol_that_there_is_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier pigeon")
    with (
        pytest.raises(BadRequestError, match="carrier pigeon"),
        exporting.exporting(TracingSettings(endpoint="http://127.0.0.1:1"), "x"),
    ):
        pass


@pytest.mark.parametrize("listening", [True, False], ids=["never answers", "is gone"])
async def test_a_collector_that_does_not_take_traces_holds_up_neither_calls_nor_the_end(
    listening: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(exporting, "LAST_SECONDS", 0.1)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "64")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not listening:
            server.close()
        with exporting.exporting(TracingSettings(endpoint=f"http://127.0.0.1:{port}"), "kvquilt-node"):
            async with own_stores(1) as (address,), called(address) as client:
                for _ in range(100):  # more spans than the queue holds
                    assert await client.stat([bytes(32)], deadline=DEADLINE) == {}
        lost = [record for record in caplog.records if "the last ones are lost" in record.message]
        assert len(lost) == 1, "it ended while the exporter was still trying"


async def test_an_errors_reason_is_recorded_and_its_message_is_not() -> None:
    with tracing() as traces:
        with pytest.raises(UnavailableError), spans.span("kvquilt.node", node="n"):
            raise UnavailableError("the secret that a peer sent")
        with pytest.raises(ZeroDivisionError), spans.span("kvquilt.find"):
            _ = 1 / 0
        with pytest.raises(asyncio.CancelledError), spans.span("kvquilt.fetch"):
            raise asyncio.CancelledError
        with pytest.raises(UnavailableError), spans.span("kvquilt.merge"):
            raise UnavailableError("x", reason="a text that a peer calls a reason")
    told = [(s.name, s.status.status_code, attributes(s)["reason"], s.status.description) for s in traces.spans()]
    assert told == [
        ("kvquilt.node", StatusCode.ERROR, "unavailable", "unavailable"),
        ("kvquilt.find", StatusCode.ERROR, "ZeroDivisionError", "ZeroDivisionError"),
        ("kvquilt.fetch", StatusCode.ERROR, "CancelledError", "CancelledError"),
        ("kvquilt.merge", StatusCode.ERROR, "other", "other"),
    ]
    assert not any(s.events for s in traces.spans())


def test_an_attribute_that_was_not_declared_is_a_mistake() -> None:
    with tracing(), pytest.raises(KeyError, match="text"):
        spans.span("kvquilt.find", text="a prompt")


async def test_a_call_that_is_refused_or_late_ends_its_span_with_the_code() -> None:
    with tracing() as traces:
        async with own_stores(1) as (address,), called(address) as client:
            with pytest.raises(BadRequestError):
                await client.stat([b"short"], deadline=DEADLINE)
        async with called(address) as gone:
            with pytest.raises(UnavailableError):
                await gone.stat([bytes(32)], deadline=DEADLINE)
    name = "kvquilt.v1.CacheNodeService/StatChunks"
    codes = [(s.kind.name, attributes(s).get("reason")) for s in traces.spans(name)]
    assert codes == [("CLIENT", "INVALID_ARGUMENT"), ("SERVER", "INVALID_ARGUMENT"), ("CLIENT", "UNAVAILABLE")]


async def test_a_hedge_shows_beside_the_call_that_was_late() -> None:
    options = PoolOptions(shared_store=True, hot_uses=0, reserve=5, breaker_wait=600, health_seconds=600)
    async with one_store(2) as addresses, AsyncExitStack() as stack:
        opened = asyncio.Event()
        opened.set()
        through = await stack.enter_async_context(valve(addresses[1], opened))
        nodes = await stack.enter_async_context(open_nodes([addresses[0], through], options))
        await put_all(nodes)
        for key, _, meta in OBJECTS:
            await whole(nodes, ObjectRef(key, meta.chunk_key))
        with tracing() as traces:
            opened.clear()
            for key, data, meta in OBJECTS:
                assert await whole(nodes, ObjectRef(key, meta.chunk_key), 6 * SHORT) == data
            opened.set()
    hedges = [attributes(s) for s in traces.spans("kvquilt.node") if attributes(s)["hedged"]]
    assert hedges
    assert {hedge["call"] for hedge in hedges} == {"get"}
    late = [attributes(s) for s in traces.spans("kvquilt.node") if attributes(s).get("reason") == "CancelledError"]
    assert through in {attempt["node"] for attempt in late}, "the slower one is given up when the faster has answered"


def test_probes_of_health_make_no_traces() -> None:
    with tracing():
        assert spans.calling("/grpc.health.v1.Health/Check") is None
