"""Access logs as `kvquilt simulate` reads them: files of one folder are one trace."""

from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from kvquilt.cli.main import app
from kvquilt.simulator import logged
from kvquilt.simulator.types import Access
from kvquilt_codec.access_log import COLUMNS
from kvquilt_codec.errors import BadRequestError

Line = tuple[float, str, bytes, int, float, bool]


def write_log(path: Path, lines: list[Line], **changed: str) -> Path:
    """A file of lines with time, request, key, stored bytes, compute seconds and whether it was found."""
    rows = [(time, request, "n", key, 1, *rest, "") for time, request, key, *rest in lines]
    fields = [(name, pyarrow.type_for_alias(kind)) for name, kind in (COLUMNS | changed).items()]
    columns = dict(zip(COLUMNS, map(list, zip(*rows, strict=True)), strict=True))
    parquet.write_table(pyarrow.table(columns, schema=pyarrow.schema(fields)), path)
    return path


def test_an_access_log_is_read_request_by_request(tmp_path: Path) -> None:
    lines: list[Line] = [
        (1.0, "r1", b"a", 100, 0.5, False),
        (1.0, "r1", b"b", 0, 0.25, False),
        (2.0, "r2", b"a", 999, 0.5, True),
        (3.0, "r1", b"b", 7, 0, False),
        (4.0, "r4", b"a", 5, 0.5, False),
    ]
    trace = logged.read([write_log(tmp_path / "log.parquet", lines)], "any")
    a, b = Access(b"a", 999, 0.5), Access(b"b", 1, 0.25)
    assert trace.requests == [[a, b], [a], [Access(b"b", 1, 0.0)], [a]], "what was found counts, not an estimate"


def test_files_of_a_folder_are_one_trace_in_the_order_of_time(tmp_path: Path) -> None:
    first = write_log(tmp_path / "access-2.parquet", [(2.0, "r2", b"b", 1, 1, True), (4.0, "r4", b"a", 1, 1, True)])
    second = write_log(tmp_path / "access-1.parquet", [(1.0, "r1", b"a", 1, 1, True), (3.0, "r3", b"c", 1, 1, True)])
    (tmp_path / ".access-3.parquet.tmp").write_bytes(b"half of a file that a killed process left")
    trace = logged.read([first, second, tmp_path / "deleted-meanwhile.parquet"], "any")
    assert [access.key for request in trace.requests for access in request] == [b"a", b"b", b"c", b"a"]
    for name in (tmp_path, tmp_path / "access-*.parquet"):
        result = CliRunner().invoke(app, ["simulate", str(name), "--capacity", "1GiB", "--policy", "lru", "--json"])
        assert result.exit_code == 0, result.output
        assert result.stdout.count('"hit_rate":0.25') == 2, "the bound and lru, of four accesses one"
    (tmp_path / "empty").mkdir()
    for name in (tmp_path / "empty", tmp_path / "x*.parquet"):
        result = CliRunner().invoke(app, ["simulate", str(name)])
        assert result.exit_code == 3
        assert "has no file" in " ".join(result.stderr.split())


def test_a_log_of_other_columns_or_impossible_values_is_refused(tmp_path: Path) -> None:
    line: Line = (1.0, "r", b"a", 5, 0.5, True)
    text: Line = (1.0, "r", b"a", 5, "0.5", True)  # type: ignore[assignment]
    others = write_log(tmp_path / "a.parquet", [text], compute_seconds="string")
    with pytest.raises(BadRequestError, match="columns"):
        logged.read([others], "any")
    wrong_ones = (
        (*line[:3], -1, 0.5, True),
        (*line[:4], float("inf"), True),
        (*line[:4], float("nan"), True),
        (*line[:2], None, 5, 0.5, True),
    )
    for wrong in wrong_ones:
        with pytest.raises(BadRequestError, match="at least 0"):
            logged.read([write_log(tmp_path / "b.parquet", [line, wrong])], "any")  # type: ignore[list-item]
