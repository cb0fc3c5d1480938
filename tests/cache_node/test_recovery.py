"""Opening a store after whatever happened to its folder: what is sound is kept, what is not goes, nothing by hand."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import IndexedStore, open_store
from kvquilt_cache_node.store.rows import VERSION
from kvquilt_codec.errors import IntegrityError, NotFoundError, UnavailableError
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.types import Level
from tests.codec.samples import FINGERPRINT, PREFIX, make_chunk, make_object

OBJECTS = [
    make_object(make_chunk(5, seed=seed), Level.HIGH, f"doc {seed}", "all", namespace="team-a") for seed in range(4)
]
SIZE = len(OBJECTS[0][1])


async def reopened(folder: Path, capacity: int = 1 << 20) -> IndexedStore:
    return await open_store(NodeSettings(store="file", path=folder, capacity=capacity, fsync=False))


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    """A closed store that holds `OBJECTS`."""
    store = await reopened(tmp_path)
    for key, data, meta in OBJECTS:
        await store.put_if_absent(key, data, meta)
    await store.close()
    return tmp_path


def blob(folder: Path, number: int) -> Path:
    name = OBJECTS[number][0].hex()
    return folder / "blobs" / name[:2] / f"{name}.kvq"


def without_row(folder: Path, number: int) -> None:
    with sqlite3.connect(folder / "index.sqlite") as index:
        index.execute("PRAGMA foreign_keys=ON")
        index.execute("DELETE FROM objects WHERE key = ?", (OBJECTS[number][0],))
        index.execute("DELETE FROM gone")  # as if it had never had one
    index.close()


async def assert_holds(store: IndexedStore, numbers: list[int]) -> None:
    assert {info.key for info in await store.list()} == {OBJECTS[number][0] for number in numbers}
    for number in numbers:
        key, data, meta = OBJECTS[number]
        assert await store.get(key) == [data]
        info = (await store.stat([key]))[key]
        assert replace(info.meta, document_ids=()) == replace(meta, document_ids=(), fingerprints=b"")
        assert set(info.meta.document_ids) == set(meta.document_ids)
        found = await store.find_variants([meta.chunk_key], FINGERPRINT, PREFIX, 16)
        assert found == {meta.chunk_key: [info]}
        asked = [digest for _, digest in unpack(meta.fingerprints, meta.tokens)]
        matches = await store.find_chunks(asked, FINGERPRINT, 8)
        assert [(match.offset, match.chunk_key) for match in matches] == [(0, meta.chunk_key)]
    usage = await store.usage()
    assert usage.used_bytes == SIZE * len(numbers)


async def test_an_orderly_end_loses_nothing(folder: Path) -> None:
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    await store.close()


async def test_uses_counted_before_an_orderly_end_are_kept(folder: Path) -> None:
    store = await reopened(folder)
    await store.touch([OBJECTS[0][0]] * 3)
    await store.close()
    store = await reopened(folder)
    assert (await store.stat([OBJECTS[0][0]]))[OBJECTS[0][0]].use_count == 3
    assert (await store.list())[0].key == OBJECTS[0][0], "the most recently used"
    await store.close()


async def test_a_sound_file_without_a_row_is_adopted_with_its_documents(folder: Path) -> None:
    without_row(folder, 1)
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    assert len((await store.forget([], ["all"], "team-a")).deleted) == 0
    assert len((await store.forget([], ["doc 1"], "team-a")).deleted) == 1, "its documents came back with it"
    await store.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:20],
        lambda data: b"",
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:],
        lambda data: data + b"\0",
        lambda data: OBJECTS[2][1],
    ],
    ids=["cut", "stub", "empty", "flipped payload", "flipped header", "longer", "another object"],
)
async def test_a_damaged_file_without_a_row_is_deleted(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    without_row(folder, 1)
    blob(folder, 1).write_bytes(damage(OBJECTS[1][1]))
    store = await reopened(folder)
    await assert_holds(store, [0, 2, 3])
    assert not blob(folder, 1).exists()
    assert await store.put_if_absent(*OBJECTS[1]) is True, "and it can be stored again"
    await store.close()


async def test_a_row_without_its_file_is_dropped(folder: Path) -> None:
    blob(folder, 2).unlink()
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 3])
    assert await store.put_if_absent(*OBJECTS[2]) is True
    await store.close()


async def test_a_file_of_another_size_than_its_row_is_checked_and_deleted(folder: Path) -> None:
    blob(folder, 2).write_bytes(OBJECTS[2][1][:-7])
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 3])
    assert not blob(folder, 2).exists()
    await store.close()


async def test_a_file_that_vanishes_while_the_store_is_open_is_a_miss_that_drops_its_row(folder: Path) -> None:
    store = await reopened(folder)
    blob(folder, 3).unlink()
    with pytest.raises(NotFoundError):
        await store.get(OBJECTS[3][0])
    await assert_holds(store, [0, 1, 2])
    await store.close()


def overwrite_header(index: Path) -> None:
    index.write_bytes(b"this was a database once" + index.read_bytes()[24:])


def overwrite_everything(index: Path) -> None:
    index.write_bytes(b"\xa5" * 4096)


def cut_to_half(index: Path) -> None:
    index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


def overwrite_all_pages_but_the_first(index: Path) -> None:
    data = index.read_bytes()
    index.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))


def delete(index: Path) -> None:
    index.unlink()


def drop_a_column(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.executescript("DROP TABLE objects; CREATE TABLE objects (key BLOB PRIMARY KEY);")
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        overwrite_header,
        overwrite_everything,
        cut_to_half,
        overwrite_all_pages_but_the_first,
        delete,
        drop_a_column,
    ],
)
async def test_a_damaged_index_is_rebuilt_from_the_objects(folder: Path, damage: Callable[[Path], None]) -> None:
    damage(folder / "index.sqlite")
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    assert len((await store.forget([], ["doc 1", "all"], "team-a")).deleted) == 1
    await store.close()
    if damage is not delete:
        assert len(list(folder.glob("index.sqlite.damaged-*"))) == 1, "the evidence is kept"


def of_format(index: Path, version: int) -> None:
    with sqlite3.connect(index) as database:
        database.execute(f"PRAGMA user_version={version}")
    database.close()


async def test_an_index_of_an_older_format_is_rebuilt_and_one_of_a_newer_left_alone(folder: Path) -> None:
    index = folder / "index.sqlite"
    of_format(index, VERSION - 1)
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    await store.close()
    of_format(index, VERSION + 1)
    before = index.read_bytes()
    with pytest.raises(IntegrityError, match=f"format {VERSION} or older .* got format {VERSION + 1}") as caught:
        await reopened(folder)
    assert caught.value.reason == "unknown_version"
    assert index.read_bytes() == before


@pytest.mark.parametrize("page", range(1, 5))
async def test_an_index_with_any_one_page_damaged_is_rebuilt(folder: Path, page: int) -> None:
    index = folder / "index.sqlite"
    data = bytearray(index.read_bytes())
    assert page * 4096 < len(data)
    data[page * 4096 : (page + 1) * 4096] = b"\xa5" * 4096
    index.write_bytes(data)
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    await store.close()


async def test_a_lowered_cap_holds_from_the_start(folder: Path) -> None:
    store = await reopened(folder, capacity=2 * SIZE + 1)
    await assert_holds(store, [2, 3])
    assert [path.exists() for path in (blob(folder, number) for number in range(4))] == [False, False, True, True]
    await store.close()


async def test_unfinished_writes_are_swept_and_foreign_files_left_alone(folder: Path) -> None:
    (folder / "tmp" / "0123456789abcdef").write_bytes(b"half of an object")
    foreign = folder / "blobs" / "README.kvq"
    foreign.write_text("not ours")
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    assert list((folder / "tmp").iterdir()) == []
    assert foreign.read_text() == "not ours"
    await store.close()


_HOLDS_THE_FOLDER = """
import sys
from pathlib import Path
from kvquilt_cache_node.store import FileBlobs
blobs = FileBlobs(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


async def test_a_second_process_on_the_folder_is_refused_until_the_first_ends(folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_THE_FOLDER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UnavailableError, match="another one holds it") as caught:
            await reopened(folder)
        assert caught.value.reason == "store_locked"
        other.kill()
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    await store.close()


async def test_a_path_that_is_no_folder_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="choose another path"):
        await reopened(tmp_path / "file")


async def test_a_store_that_could_not_be_opened_is_not_left_locked(folder: Path) -> None:
    index = folder / "index.sqlite"
    kept = index.read_bytes()
    index.unlink()
    index.mkdir()
    with pytest.raises(UnavailableError, match="index"):
        await reopened(folder)
    index.rmdir()
    index.write_bytes(kept)
    store = await reopened(folder)
    await assert_holds(store, [0, 1, 2, 3])
    await store.close()
