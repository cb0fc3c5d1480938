"""The page that metrics are on: formats, one scrape at a time, and clients that mean no good."""

import asyncio
import gzip
import http.client
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parsed_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parsed

from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_rpc.certificates import first_expiry
from kvquilt_rpc.metrics import serving
from kvquilt_rpc.metrics.asking import Question
from kvquilt_rpc.metrics.measured import Histogram, Sums
from kvquilt_rpc.metrics.serving import MAX_CONNECTIONS, metrics_served
from kvquilt_rpc.metrics.types import OTHER, MetricsSettings, counter, gauge, histogram
from kvquilt_rpc.metrics.values import Collect, Named, Values
from tests.rpc.certificates import Authority

WORK = counter("kvquilt_test_work_total", "Work.", "who")
LEVEL = gauge("kvquilt_test_level", "Level.")
SIZES = histogram("kvquilt_test_sizes", "Sizes.", "of", buckets=(1.0, 10.0))
DECLARED = (WORK, LEVEL, SIZES)
ODD = 'a "name"\\ with\nall'


async def some(values: Values) -> None:
    sizes, sums = Histogram(SIZES, [("nothing",)]), Sums(WORK, [("b",)])
    for size in (0.5, 1.0, 5.0, 50.0):
        sizes.observe(size, "things")
    sums.add(2, ODD)
    values.measured(sizes, sums)


def get(address: str, path: str = "/metrics", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


@asynccontextmanager
async def page(collect: Collect = some) -> AsyncIterator[Callable[..., Awaitable[tuple[int, str, bytes]]]]:
    async with metrics_served(MetricsSettings(metrics_port=0), DECLARED, collect) as address:
        assert address is not None

        async def asked(path: str = "/metrics", **headers: str) -> tuple[int, str, bytes]:
            status, said, body = await asyncio.to_thread(get, address, path, **headers)
            return status, said.get("Content-Type", ""), body

        asked.address = address  # type: ignore[attr-defined]
        yield asked


async def test_both_formats_say_what_was_measured_and_declare_what_was_not() -> None:
    async with page() as asked:
        plain = await asked()
        other = await asked(Accept="application/openmetrics-text; version=1.0.0")
        packed = await asked(**{"Accept-Encoding": "gzip"})
    assert (plain[0], plain[1].split(";")[0]) == (200, "text/plain")
    assert other[1].startswith("application/openmetrics-text")
    assert gzip.decompress(packed[2]).splitlines()[:1] == plain[2].splitlines()[:1]
    for families in (list(parsed(plain[2].decode())), list(parsed_openmetrics(other[2].decode()))):
        samples = {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}
        assert samples["kvquilt_test_work_total", (("who", ODD),)] == 2
        assert samples["kvquilt_test_work_total", (("who", "b"),)] == 0
        assert samples["kvquilt_test_sizes_sum", (("of", "things"),)] == 56.5
        counts = [
            samples["kvquilt_test_sizes_bucket", (("le", le), ("of", "things"))] for le in ("1.0", "10.0", "+Inf")
        ]
        assert counts == [2, 3, 4], "a bound is within its bucket"
        assert samples["kvquilt_test_sizes_count", (("of", "nothing"),)] == 0
        assert {family.name for family in families} >= {"kvquilt_test_level", "process_cpu_seconds"}


async def test_other_pages_and_methods_are_refused() -> None:
    async with page() as asked:
        assert (await asked("/"))[0] == (await asked("/metrics/more"))[0] == 404
        assert (await asked("/metrics?name[]=kvquilt_test_level"))[0] == 200

        def posted() -> int:
            connection = http.client.HTTPConnection(asked.address, timeout=30)  # type: ignore[attr-defined]
            connection.request("POST", "/metrics", b"x" * 10)
            status = connection.getresponse().status
            connection.close()
            return status

        assert await asyncio.to_thread(posted) == 405


async def test_what_was_not_declared_is_not_exported() -> None:
    values = Values([LEVEL])
    with pytest.raises(KeyError):
        values.set(WORK, 1, "a")
    with pytest.raises(ValueError, match="labels"):
        values.set(LEVEL, 1, "a")


async def test_a_failed_scrape_is_a_503_and_the_next_one_works() -> None:
    broken = [True]

    async def collect(values: Values) -> None:
        if broken.pop():
            raise RuntimeError("a mistake")
        await some(values)

    broken.insert(0, False)
    async with page(collect) as asked:
        assert (await asked())[0] == 503
        assert (await asked())[0] == 200


async def test_a_server_that_is_busy_says_so_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "COLLECT_SECONDS", 0.2)
    running, most = [0], [0]

    async def collect(_: Values) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        try:
            await asyncio.sleep(60)
        finally:
            running[0] -= 1

    async with page(collect) as asked:
        found = await asyncio.gather(*(asked() for _ in range(5)))
        assert {status for status, _, _ in found} == {503}
    assert (running, most) == ([0], [1]), "one scrape at a time, and what is given up is cancelled"


async def test_silent_slow_and_endless_clients_are_cut_off_while_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serving._Handler, "timeout", 0.5)
    monkeypatch.setattr(serving, "CONNECTION_SECONDS", 1.0)
    ended: list[bytes] = []

    def hostile(address: str, first: bytes, drip: bytes) -> None:
        host, port = address.split(":")
        with socket.create_connection((host, int(port)), timeout=30) as client:
            try:
                client.sendall(first)
                while drip:
                    client.sendall(drip)
                    threading.Event().wait(0.05)
            except OSError:
                pass
            try:
                while client.recv(1 << 16):
                    pass
                ended.append(first)
            except OSError:
                ended.append(first)

    async with page() as asked:
        address = asked.address  # type: ignore[attr-defined]
        attacks = [
            (b"", b""),
            (b"GET /metrics HTTP/1.1\r\nX: ", b"y"),
            (b"GET /" + b"a" * (1 << 17), b""),
            (b"GET /metrics HTTP/1.1\r\n" + b"".join(b"H%d: x\r\n" % n for n in range(500)) + b"\r\n", b""),
            (b"GET /metrics HTTP/1.1\r\nX: " + b"z" * (1 << 18) + b"\r\n\r\n", b""),
            (b"\x16\x03\x01\x02\x00\x01\x00", b""),
        ]
        tasks = [asyncio.create_task(asyncio.to_thread(hostile, address, *attack)) for attack in attacks]
        await asyncio.sleep(0.2)
        assert (await asked())[0] == 200
        await asyncio.gather(*tasks)
        assert len(ended) == len(attacks)
        assert (await asked())[0] == 200


async def test_connections_beyond_the_limit_are_closed_at_once() -> None:
    async with page() as asked:
        host, port = asked.address.split(":")  # type: ignore[attr-defined]
        held = [socket.create_connection((host, int(port)), timeout=30) for _ in range(MAX_CONNECTIONS)]
        try:
            while True:
                # Each of them is taken in by and by; then there is no room.
                with socket.create_connection((host, int(port)), timeout=30) as one_more:
                    one_more.settimeout(0.2)
                    try:
                        assert await asyncio.to_thread(one_more.recv, 1) == b""
                        break
                    except TimeoutError:
                        continue
        finally:
            for client in held:
                client.close()


async def test_a_question_that_hangs_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kvquilt_rpc.metrics.asking.ANSWER_SECONDS", 0.05)
    asked, answer = [0], asyncio.Event()

    async def ask() -> int:
        asked[0] += 1
        await answer.wait()
        if asked[0] == 2:
            raise UnavailableError("expected an index; it is gone")
        return asked[0]

    question = Question(ask)
    assert [await question.answer() for _ in range(3)] == [None] * 3
    assert asked == [1], "it hangs still"
    answer.set()
    assert await question.answer() == 1
    assert await question.answer() is None, "it failed"
    assert await question.answer() == 3
    await question.close()


async def test_an_address_that_is_taken_or_not_ours_is_refused() -> None:
    async with page() as asked:
        port = int(asked.address.rpartition(":")[2])  # type: ignore[attr-defined]
        for wrong in ({"metrics_port": port}, {"metrics_port": 0, "metrics_host": "203.0.113.7"}):
            with pytest.raises(UnavailableError, match="expected to serve metrics"):
                async with metrics_served(MetricsSettings(**wrong), DECLARED, some):
                    pass
    async with metrics_served(MetricsSettings(), DECLARED, some) as address:
        assert address is None
    assert MetricsSettings().metrics_host == "127.0.0.1"


@given(st.lists(st.text("abcdef", min_size=1, max_size=2), max_size=60), st.integers(0, 5))
def test_no_more_namespaces_have_series_than_may_and_each_keeps_its_own(names: list[str], limit: int) -> None:
    named = Named(limit, ["z"])
    labels = [(name, named.of(name)) for name in names]
    assert len({label for _, label in labels} - {OTHER}) <= max(0, limit - 1) + 0
    assert all(label in (name, OTHER) for name, label in labels)
    assert len(set(labels)) == len({name for name, _ in labels}), "a name has the same label each time"
    assert named.of("z") == ("z" if limit else OTHER)


def test_certificates_say_when_they_expire(tmp_path: Path) -> None:
    from cryptography import x509

    authority = Authority.new(tmp_path)
    for path in (authority.pem, authority.issue("server").cert):
        content = path.read_bytes()
        expected = min(one.not_valid_after_utc.timestamp() for one in x509.load_pem_x509_certificates(content))
        assert first_expiry(content, path) == expected
        for wrong in (b"", b"\xff", content[:200], content.replace(b"M", b"!", 3)):
            with pytest.raises(BadRequestError, match="certificates"):
                first_expiry(wrong, path)


def test_nothing_is_imported_where_no_port_is_set() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "import kvquilt_cache_node.node, asyncio\n"
        "from kvquilt_cache_node.settings import NodeSettings\n"
        "async def main(**more):\n"
        "    async with kvquilt_cache_node.node.running_node(NodeSettings(port=0, store='memory', **more)): pass\n"
        "asyncio.run(main())\n"
        "try: asyncio.run(main(metrics_port=0))\n"
        "except Exception as error: print(type(error).__name__, error)\n"
        "print('torch' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ}, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert "kvquilt[metrics]" in done.stdout.splitlines()[0]
