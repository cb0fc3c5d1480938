"""`kvquilt simulate`: traces as they are written, what counts as found, and what is refused."""

import gzip
import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from kvquilt.cli.main import app
from kvquilt.simulator import mooncake
from kvquilt.simulator.replay import replay
from kvquilt.simulator.types import Access, Trace
from kvquilt_cache_node.eviction.lru import Lru

LINES = [
    {"timestamp": 0, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]},
    {"timestamp": 27, "input_length": 1500, "output_length": 5, "hash_ids": [0, 1, 3]},
    {"timestamp": 30, "input_length": 1200, "output_length": 5, "hash_ids": [0, 1, 2]},
]


def simulate(*words: object) -> Result:
    return CliRunner().invoke(app, ["simulate", *map(str, words)])


@pytest.fixture
def mooncake_file(tmp_path: Path) -> Path:
    path = tmp_path / "trace.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, LINES)).encode()))
    return path


def test_a_mooncake_trace_has_blocks_whose_cost_grows_with_their_place(mooncake_file: Path) -> None:
    trace = mooncake.read(mooncake_file, bytes_per_token=10)
    assert [[access.key for access in request] for request in trace.requests] == [[0, 1, 2], [0, 1, 3], [0, 1, 2]]
    assert {access.size for request in trace.requests for access in request} == {5120}
    assert (trace.accesses, trace.unique_bytes) == (9, 4 * 5120)
    first, second, third = (access.cost for access in trace.requests[0])
    assert third - second == pytest.approx(second - first)
    assert first > 512 / 300


def test_what_is_found_alone_with_its_prefix_and_in_seconds() -> None:
    """Room for two: what is looked up was put by earlier requests, since a request looks first."""
    a, b, c = (Access(key, 10, cost) for key, cost in (("a", 1.0), ("b", 2.0), ("c", 4.0)))
    trace = Trace("any", [[a, b], [a, b], [c, b], [a, a]])
    seen: list[int] = []
    outcome = replay(trace, Lru(), 20, progress=seen.append)
    assert outcome.hit_rate == 3 / 8, "a b of the second request; b of the third; the last one looks before it puts"
    assert outcome.prefix_hit_rate == 2 / 8, "b of the third comes after a miss"
    assert outcome.saved_share == (1 + 2 + 2) / (3 + 3 + 6 + 2)
    assert outcome.evictions == 2
    assert seen[-1] == 4


def test_what_is_larger_than_the_store_displaces_nothing() -> None:
    small, large = Access("small", 10, 1.0), Access("large", 21, 1.0)
    outcome = replay(Trace("any", [[small], [large], [small], [large]]), Lru(), 20)
    assert (outcome.hit_rate, outcome.evictions) == (1 / 4, 0)


def test_the_command_prints_rows_beside_the_bound_and_writes_them(mooncake_file: Path, tmp_path: Path) -> None:
    output, chart = tmp_path / "new" / "simulate.json", tmp_path / "chart.png"
    words = ("--capacity", "50%,1GiB", "--policy", "lru, belady", "--bytes-per-token", 10)
    result = simulate(mooncake_file, *words, "--json", "--output", output, "--chart", chart)
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["policy"], row["capacity_bytes"]) for row in rows] == [
        ("belady", 10240),
        ("lru", 10240),
        ("belady", 1 << 30),
        ("lru", 1 << 30),
    ]
    assert [row["hit_rate"] for row in rows] == [4 / 9, 2 / 9, 5 / 9, 5 / 9]
    assert [row["vs_belady"] for row in rows] == [1, 1 / 2, 1, 1]
    written = json.loads(output.read_text())
    assert written["rows"] == rows
    assert written["conditions"]["bytes_per_token"] == 10
    assert chart.read_bytes().startswith(b"\x89PNG")
    people = simulate(mooncake_file, *words).stdout
    assert "55.56%" in people
    assert "trace.jsonl.gz" in people


def test_ctrl_c_ends_it_with_the_rows_that_are_finished(mooncake_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evict = Lru.evict

    def interrupted(policy: Lru) -> object:
        evict(policy)
        raise KeyboardInterrupt

    monkeypatch.setattr(Lru, "evict", interrupted)
    result = simulate(mooncake_file, "--capacity", "2KiB,50%", "--policy", "lru", "--bytes-per-token", 10)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert "belady" in result.stdout
    assert "100.0%" in result.stdout, "the bound at 50 % was finished"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policy", "mru"], "among hit-density, .* got 'mru'"),
        (["--capacity", "lots"], "sizes like 1GiB .* got 'lots'"),
        (["--capacity", "-1%"], "at least one byte"),
        (["--capacity", "nan%"], "sizes like 1GiB"),
        (["--capacity", "0"], "at least one byte"),
        (["--bytes-per-token", "0"], "greater than or equal"),
    ],
)
def test_wrong_flags_are_refused(mooncake_file: Path, words: list[str], says: str) -> None:
    result = simulate(mooncake_file, *words)
    assert result.exit_code == 2
    assert re.search(says, " ".join(result.stderr.split())), result.stderr


@pytest.mark.parametrize(
    ("name", "data", "code", "says"),
    [
        ("t.jsonl", b'{"timestamp": 0}\n', 2, "line 1"),
        ("t.jsonl", b'{"timestamp": 0, "input_length": 1, "hash_ids": [1]}\n[]\n', 2, "line 2"),
        ("t.jsonl", b"\xff\xfe\n", 2, "line 1"),
        ("t.jsonl", b"", 2, "has none"),
        ("t.jsonl.gz", b"not gzipped", 2, "gzip"),
        ("t.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-12], 2, "gzip"),
        ("t.parquet", b"PAR1 not really", 2, "Parquet"),
        ("missing.jsonl", None, 3, "no file"),
    ],
)
def test_a_file_that_is_no_trace_is_refused(
    tmp_path: Path, name: str, data: bytes | None, code: int, says: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)
    result = simulate(tmp_path / name)
    assert result.exit_code == code
    assert says in " ".join(result.stderr.split())
