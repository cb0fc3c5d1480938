"""The access log: bounded memory and disk, whole files, and nobody who waits for it."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from pyarrow import parquet

from kvquilt_codec.access_log import COLUMNS
from kvquilt_codec.errors import BadRequestError, UnavailableError
from kvquilt_router import access_log
from kvquilt_router.access_log import MIN_BYTES, AccessLog
from kvquilt_router.counters import COUNTERS
from kvquilt_rpc.counters import Counters
from tests.stack import eventually


class Logging:
    def __init__(self, folder, *, seconds=0.02, max_bytes=MIN_BYTES, max_files=100):
        self.counters = Counters(COUNTERS)
        self.folder = folder
        limits = {"max_bytes": max_bytes, "max_files": max_files}
        self.log = AccessLog(folder, seconds=seconds, counters=self.counters, **limits)

    def add(self, request, rows=3):
        self.log.add(
            [(float(request), f"r{request}", "n", bytes([place]) * 32, 5, 100, 0.5, False, "") for place in range(rows)]
        )

    @property
    def files(self):
        return sorted(self.folder.glob("*.parquet"))

    @property
    def requests(self):
        """Requests of all files, in their order."""
        return [name for path in self.files for name in parquet.read_table(path)["request"].to_pylist()]

    def written(self, requests):
        """Wait until so many requests are in files."""
        eventually(lambda: self.count("requests") == requests)

    def count(self, name):
        return self.counters.snapshot()[f"access_log_{name}"]


@pytest.fixture
def logging(tmp_path):
    opened = []

    def make(folder=tmp_path / "log", **settings):
        opened.append(Logging(folder, **settings))
        return opened[-1]

    yield make
    for own in opened:
        own.log.close(30)


def test_requests_are_written_whole_and_in_order_and_at_the_end_what_waits(logging):
    own = logging(seconds=3600)
    for request in range(5):
        own.add(request)
    own.log.close(30)
    assert own.requests == [f"r{request}" for request in range(5) for _ in range(3)]
    table = parquet.read_table(own.files[0])
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS
    assert own.count("requests") == 5
    own.add(6)
    assert own.count("dropped") == 1, "closed"
    assert [path.stat().st_mode & 0o777 for path in own.files] == [0o600]


def test_files_appear_whole_while_it_runs_and_the_oldest_make_room(logging):
    own = logging(max_files=3)
    for request in range(6):
        own.add(request)
        own.written(request + 1)
        assert 1 <= len(own.files) <= 3
    assert own.requests == [f"r{request}" for request in (3, 4, 5) for _ in range(3)]
    assert not list(own.folder.glob(".*")), "nothing unfinished is left"


def test_the_bytes_of_all_files_stay_within_their_limit(logging, monkeypatch):
    own = logging(max_bytes=6000)
    own.add(0)
    eventually(lambda: own.files)
    each = own.files[0].stat().st_size
    for request in range(1, 3 * 6000 // each):
        own.add(request)
        own.written(request + 1)
        assert sum(path.stat().st_size for path in own.files) <= 6000
    assert len(own.files) > 1
    assert own.requests[-1] == f"r{request}", "the newest is there"


def test_a_full_disk_costs_only_the_requests_that_could_not_be_written(logging, monkeypatch):
    own = logging()
    write = AccessLog._put_down

    def full(self, path, data, *, keep):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(AccessLog, "_put_down", full)
    own.add(0)
    eventually(lambda: own.count("dropped") == 1)
    monkeypatch.setattr(AccessLog, "_put_down", write)
    own.add(1)
    own.written(1)
    assert set(own.requests) == {"r1"}


def test_a_disk_that_hangs_holds_up_nobody_and_memory_stays_bounded(logging, monkeypatch):
    own = logging()
    hanging, go = threading.Event(), threading.Event()
    encode = own.log._encode

    def slow(rows):
        hanging.set()
        assert go.wait(60)
        return encode(rows)

    monkeypatch.setattr(access_log, "MAX_WAITING", 10)
    monkeypatch.setattr(own.log, "_encode", slow)
    own.add(0)
    assert hanging.wait(30)
    for request in range(1, 10):
        own.add(request)
    assert own.count("dropped") == 6, "three requests of three rows wait"
    go.set()
    own.written(4)
    assert own.requests == [f"r{request}" for request in range(4) for _ in range(3)]


def test_two_routers_share_a_folder_and_its_limits(logging):
    one, two = logging(max_files=2), logging(max_files=2)
    for request in range(6):
        (one, two)[request % 2].add(request)
        (one, two)[request % 2].written(request // 2 + 1)
    assert one.files == two.files
    assert set(one.requests) == {"r4", "r5"}


def test_a_process_killed_at_any_time_leaves_whole_files_only(tmp_path):
    """What was not flushed is lost; what is there is what `kvquilt simulate` reads."""
    program = f"""
import sys
from pathlib import Path
from kvquilt_router.access_log import AccessLog
from kvquilt_router.counters import COUNTERS
from kvquilt_rpc.counters import Counters
limits = dict(seconds=0.001, max_bytes=1 << 30, max_files=10_000)
log = AccessLog(Path({str(tmp_path)!r}), counters=Counters(COUNTERS), **limits)
while True:
    log.add([(1.0, "r", "n", bytes(32), 5, 100, 0.5, False, "")] * 500)
"""
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", program])
        known = len(list(tmp_path.glob("*.parquet")))
        eventually(lambda known=known: len(list(tmp_path.glob("*.parquet"))) > known + 1)
        process.kill()
        process.wait(30)
    rows = [parquet.read_table(path).num_rows for path in tmp_path.glob("*.parquet")]
    assert len(rows) > 3
    assert all(count % 500 == 0 for count in rows)


def test_what_a_killed_process_left_goes_and_other_files_stay(logging, tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    left, other = folder / ".access-x.parquet.tmp", folder / "access-of-mine.txt"
    fresh = folder / ".access-y.parquet.tmp"
    for path in (left, other, fresh):
        path.write_bytes(b"x")
    old = time.time() - 7200
    os.utime(left, (old, old))
    logging(folder)
    assert not left.exists()
    assert other.exists()
    assert fresh.exists(), "another router may be writing it"


def test_without_pyarrow_a_log_is_refused_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BadRequestError, match=r"kvquilt\[analytics\]"):
        Logging(tmp_path / "log")
    assert not (tmp_path / "log").exists()


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnavailableError, match=r"set router\.access_log"):
        Logging(Path(tmp_path / "file"))
