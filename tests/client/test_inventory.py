"""`kvquilt inventory`: rows in Parquet with the types that are promised, sums, and no file that is not whole."""

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from pyarrow import parquet
from typer.testing import CliRunner, Result

from kvquilt.cli import inventory as command
from kvquilt.cli.main import app
from kvquilt.inventory import parquet as files
from kvquilt.inventory import summary as sums
from kvquilt.inventory.parquet import InventoryFile
from kvquilt.inventory.summary import OTHERS, Summary
from kvquilt.inventory.types import ARROW_TYPES, InventoryRow
from kvquilt_cache_node.node import running_node
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_codec.types import Level
from kvquilt_rpc.node_client import NodeClient
from tests.codec.samples import FINGERPRINT, make_chunk, make_object
from tests.stack import in_thread

DEADLINE = 20.0


def row_of(number: int, *documents: str, namespace: str = "public", uses: int = 0) -> InventoryRow:
    key = number.to_bytes(32, "big")
    counted = (100, 1000.0, 1000.5 + number, uses, 0.25, uses * 0.25)
    kinds = (len(documents), "warm", "high", "ab" * 32, 7)
    return InventoryRow("n:1", "file", namespace, "cd" * 32, key, key, documents, *kinds, *counted)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, ["inventory", *map(str, words)])


def test_rows_come_back_with_the_types_that_the_schema_promises(tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    rows = [row_of(number, "a", "b", namespace="team-a", uses=number) for number in range(5)]
    with InventoryFile(path) as file:
        for row in rows:
            file.add(row)
        assert not path.exists()
    table = parquet.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == ARROW_TYPES
    assert not any(field.nullable for field in table.schema)
    for row, written in zip(rows, table.to_pylist(), strict=True):
        assert (written["created"].timestamp(), written["last_used"].timestamp()) == (row.created, row.last_used)
        same = ARROW_TYPES.keys() - {"created", "last_used", "documents"}
        assert {name: written[name] for name in same} == {name: getattr(row, name) for name in same}
        assert written["documents"] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


def test_rows_are_written_group_by_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 10)
    with InventoryFile(tmp_path / "all.parquet") as file:
        for number in range(35):
            file.add(row_of(number))
            assert len(file._rows) < 10
    written = parquet.ParquetFile(tmp_path / "all.parquet")
    assert [written.metadata.row_group(group).num_rows for group in range(written.num_row_groups)] == [10, 10, 10, 5]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError, asyncio.CancelledError])
def test_what_is_not_finished_leaves_no_file_and_the_old_one_stays(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "all.parquet"
    path.write_bytes(b"the old one")

    def interrupted() -> None:
        with InventoryFile(path) as file:
            file.add(row_of(1))
            raise error

    with pytest.raises(error):
        interrupted()
    assert path.read_bytes() == b"the old one"
    assert [path.name for path in tmp_path.iterdir()] == ["all.parquet"]


def test_without_pyarrow_no_file_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = run("--parquet", tmp_path / "all.parquet")
    assert result.exit_code == 3
    assert "kvquilt[analytics]" in " ".join(result.stderr.split())
    assert not list(tmp_path.iterdir())


def test_sums_are_of_models_and_documents_and_of_few_documents_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "MAX_DOCUMENTS", 2)
    summary = Summary()
    rows = [row_of(0, "a", "b", uses=2), row_of(1, "b", uses=1), row_of(2, "c"), row_of(3, "d"), row_of(4)]
    rows.append(row_of(5, "a", namespace="team-a"))
    for row in rows:
        summary.add(row)
    assert (summary.total.objects, summary.total.uses, summary.total.saved_seconds) == (6, 3, 0.75)
    assert {names[0]: own.objects for names, own in summary.models.items()} == {"public": 5, "team-a": 1}
    found = {names: (own.objects, own.stored_bytes) for names, own in summary.documents.items()}
    assert found == {("public", "a"): (1, 100), ("public", "b"): (2, 200), ("", OTHERS): (3, 300)}
    assert summary.total.last_used == 1005.5


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[str]]:
    """Two nodes: one with three objects of a document, of which one was used twice; the other with one of two."""
    with ExitStack() as stack:
        addresses = []
        for number in range(2):
            settings = NodeSettings(port=0, path=tmp_path / f"store-{number}", fsync=False, drain_seconds=5)
            addresses.append(stack.enter_context(in_thread(lambda own=settings: running_node(own))))  # type: ignore[misc]
        asyncio.run(fill(addresses))
        yield addresses


async def fill(addresses: list[str]) -> None:
    def object_of(number: int, namespace: str, *documents: str) -> tuple:  # type: ignore[type-arg]
        return make_object(make_chunk(8, seed=number), Level.HIGH, *documents, namespace=namespace)

    stored = [[object_of(n, "public", "[book].txt") for n in range(3)], [object_of(9, "team-a", "x", "y")]]
    for address, objects in zip(addresses, stored, strict=True):
        client = NodeClient(address)
        for key, data, meta in objects:
            await client.put(key, data, meta, deadline=DEADLINE)
        for _ in range(2):
            await client.touch([objects[0][0]], [], deadline=DEADLINE)
        await client.close()


def test_the_command_sums_what_all_nodes_have_and_writes_every_row(nodes: list[str], tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    result = run("--node", ",".join(nodes), "--json", "--parquet", path)
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    models = {line["namespace"]: line for line in lines if "model_fingerprint" in line}
    assert {name: line["objects"] for name, line in models.items()} == {"public": 3, "team-a": 1}
    assert models["public"]["model_fingerprint"] == FINGERPRINT
    documents = {(line["namespace"], line["document"]): line["objects"] for line in lines if "document" in line}
    assert documents == {("public", "[book].txt"): 3, ("team-a", "x"): 1, ("team-a", "y"): 1}
    total = lines[-1]["total"]
    table = parquet.read_table(path).to_pylist()
    assert total["objects"] == len(table) == 4
    assert total["stored_bytes"] == sum(row["stored_bytes"] for row in table)
    assert total["uses"] == sum(row["uses"] for row in table) == 4
    saved = sum(row["uses"] * row["compute_seconds"] for row in table)
    assert total["saved_seconds"] == pytest.approx(saved)
    assert saved > 0
    assert {(row["node"], row["tier"]) for row in table} == {(address, "file") for address in nodes}
    assert abs(total["last_used"] - time.time()) < 3600
    only = run("--node", ",".join(nodes), "--json", "--namespace", "team-a")
    assert json.loads(only.stdout.splitlines()[-1])["total"]["objects"] == 1
    twice = f"{nodes[0]},{nodes[0].replace('127.0.0.1', 'localhost')}"
    shared = run("--node", twice, "--json", "--set", "router.shared_store=true")
    assert json.loads(shared.stdout.splitlines()[-1])["total"]["objects"] == 3, "one of them lists what they share"
    people = run("--node", ",".join(nodes), "--documents", 1)
    assert "[book].txt" in people.stdout
    assert "largest 1 of 3 documents" in people.stdout


def test_a_node_that_is_gone_is_an_error_and_leaves_no_file(nodes: list[str], tmp_path: Path) -> None:
    path = tmp_path / "all.parquet"
    result = run("--node", f"{nodes[0]},127.0.0.1:1", "--parquet", path)
    assert result.exit_code == 5
    assert "127.0.0.1:1" in result.stderr
    assert not path.exists()
    assert not list(tmp_path.glob(".all*"))
    missing = run("--node", nodes[0], "--parquet", tmp_path / "no" / "folder.parquet")
    assert missing.exit_code == 5
    assert "can be written" in missing.stderr


def test_ctrl_c_leaves_no_file(nodes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command.Summary, "add", interrupted)
    result = run("--node", nodes[0], "--parquet", tmp_path / "all.parquet")
    assert result.exit_code == 130
    assert not list(tmp_path.glob("*all.parquet*"))
