"""From real requests to `kvquilt simulate`: what it says of a log is what the requests found."""

import json

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from kvquilt import Client, Document, Public
from kvquilt.cli.main import app
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny
from tests.stack import eventually, serve

RNG = np.random.default_rng(0)
PREFIX = RNG.integers(3, 500, 9).tolist()
TEXTS = [RNG.integers(3, 500, n).tolist() for n in (120, 90, 70, 110)]
QUESTION = [7, 8, 9, 10]
MASTER = "a master secret for tests, long enough"


@pytest.fixture(scope="module")
def model():
    return prepare(tiny(*SUPPORTED["llama"]), None, "tiny")


def simulated(folder, **options):
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    result = CliRunner().invoke(app, ["simulate", str(folder), "--policy", "lru", "--json", *words])
    assert result.exit_code == 0, result.output
    return {row["policy"]: row for row in map(json.loads, result.stdout.splitlines())}


def table(folder):
    return [row for path in sorted(folder.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]


def settle(client, segments):
    """Wait until all of a prompt is stored."""

    def stored():
        plan = client.plan(segments, shared_prefix=PREFIX, policy="none")
        return not any(chunk.miss_reason for chunk in plan.chunks)

    eventually(stored)


def test_a_log_of_real_requests_gives_the_hit_rate_that_they_had(model, tmp_path):
    folder = tmp_path / "log"
    asked = ([0, 1], [1, 2, 0], [2], [3, 0, 3], [0, 1, 2, 3])
    expected, known, requests = [], set(), []
    store = {"warm_up_passages": 0, "access_log": folder}
    with serve(model, tmp_path / "store", **store) as address, Client(address) as client:
        for places in asked:
            segments = [*(TEXTS[place] for place in places), QUESTION]
            report = client.blend(segments, shared_prefix=PREFIX, policy="none").report
            requests.append(report.request_id)
            settle(client, segments)
            needed = ["prefix", *dict.fromkeys(places)]
            expected += [chunk in known for chunk in needed]
            known |= set(needed)
            missed = {"prefix" if not c.segment else places[c.segment - 1] for c in report.chunks if c.miss_reason}
            assert missed == {chunk for chunk, found in zip(needed, expected[-len(needed) :], strict=True) if not found}
    rows = table(folder)
    assert [row["found"] for row in rows] == expected, "each chunk once a request, in the order of its prompt"
    assert simulated(folder, capacity="1GiB")["lru"]["hit_rate"] == sum(expected) / len(expected)
    assert len({row["key"] for row in rows}) == len(known), "a chunk has one key, whether it was found or not"
    assert [*dict.fromkeys(row["request"] for row in rows)] == requests, "as `kvquilt why` takes it"
    assert {row["namespace"] for row in rows} == {"public"}
    assert all(row["stored_bytes"] > 0 < row["compute_seconds"] for row in rows)


def test_a_public_chunk_is_logged_as_such_and_nothing_of_the_text(model, tmp_path):
    folder = tmp_path / "log"
    options = {"namespace": "mine", "master_secret": MASTER, "background": False, "access_log": folder}
    with serve(model, tmp_path / "store", **options) as address, Client(address) as client:
        list(client.prefetch([Document("secret-name", TEXTS[0])], shared_prefix=Public(PREFIX)))
        client.blend([TEXTS[0], TEXTS[1], QUESTION], shared_prefix=Public(PREFIX), policy="none")
        client.blend_plain([*PREFIX, *TEXTS[0], *QUESTION], policy="none")
    rows = table(folder)
    assert [(row["namespace"], row["tokens"], row["found"]) for row in rows[:3]] == [
        ("public", 9, True),
        ("mine", 120, True),
        ("mine", 90, False),
    ]
    assert (rows[-1]["key"], rows[-1]["found"]) == (rows[1]["key"], True), "found in a plain prompt too"
    written = b"".join(path.read_bytes() for path in folder.glob("*.parquet"))
    assert b"secret-name" not in written


def test_a_folder_that_vanishes_fails_no_request(model, tmp_path):
    folder = tmp_path / "log"
    settings = {"background": False, "access_log": folder, "access_log_seconds": 0.05}
    with serve(model, tmp_path / "store", **settings) as address, Client(address) as client:
        client.blend([TEXTS[0], QUESTION], shared_prefix=PREFIX)
        eventually(lambda: client.status().counters["access_log_requests"] == 1)
        for path in folder.iterdir():
            path.unlink()
        folder.rmdir()
        folder.write_bytes(b"no folder any more")
        client.blend([TEXTS[0], QUESTION], shared_prefix=PREFIX)
        eventually(lambda: client.status().counters["access_log_dropped"] == 1)
        assert client.blend([TEXTS[0], QUESTION], shared_prefix=PREFIX).report.tokens_computed
