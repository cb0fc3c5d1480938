"""What an index remembers of what left: no more than it is allowed to, and nothing that tells what it was."""

import sqlite3
import time
from pathlib import Path

import pytest

from kvquilt_cache_node.eviction.lru import Lru
from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.store import Database, SqliteIndex
from kvquilt_cache_node.store.departures import departure_name
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.traces import ChunkPlace
from tests.cache_node.remote import redis_index
from tests.contracts.index_contract import store
from tests.contracts.store_objects import CAPACITY, MODEL, digest_of, key_of, meta_of, ticking
from tests.servers import RedisServer

PLACES = [ChunkPlace(digest_of(number), digest_of(0)) for number in range(100)]


async def remembered(index: Index) -> list[int]:
    departed = (await index.trace(PLACES, 1, (PUBLIC,))).departed
    return [number for number, place in enumerate(PLACES) if place in departed]


async def come_and_go(index: Index, numbers: range) -> None:
    for number in numbers:
        await store(index, number, 10, meta_of(chunk=number))
        await index.remove([key_of(number)])
        await index.release([key_of(number)])


async def opened(kind: str, folder: Path, url: str, kept: int) -> Index:
    if kind == "redis":
        return await redis_index(url, folder, departures=kept)
    return SqliteIndex(Database(folder / "index.sqlite", time.time, Lru(), kept))


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
async def test_the_latest_are_remembered_and_no_more_than_allowed_also_after_a_restart(
    kind: str, tmp_path: Path, valkey: RedisServer
) -> None:
    for kept, numbers in ((32, range(100)), (8, range(1)), (0, range(5, 6))):
        index = await opened(kind, tmp_path, valkey.url, kept)
        await come_and_go(index, numbers)
        found = await remembered(index)
        assert len(found) <= max(kept, 8), "with 0 what was there may stay, nothing is added"
        if kept == 32:
            assert found == list(range(100 - len(found), 100))
            assert len(found) >= 28
        elif kept == 8:
            assert 0 in found
        else:
            assert 5 not in found
        await index.close()


async def test_of_what_was_forgotten_a_digest_a_reason_and_a_time_stay(tmp_path: Path) -> None:
    index = await opened("sqlite", tmp_path, "", 10)
    await store(index, 7, 10, meta_of("a secret document", chunk=7, fingerprints=[3]))
    await index.remove([], ["a secret document"])
    await index.deleted([key_of(7)])
    await index.close()
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        left = {table: db.execute(f"SELECT * FROM {table}").fetchall() for table in tables}  # noqa: S608
    ((name, reason, at, namespace),) = left.pop("departures")
    assert (name, reason, namespace) == (departure_name(digest_of(7), digest_of(0), PUBLIC), "forgotten", "")
    assert isinstance(at, float)
    ((model, _),) = left.pop("models")
    assert model == MODEL
    ((_, age, wall),) = left.pop("age")
    assert {type(age), type(wall)} == {float}
    assert not any(left.values()), "once its bytes are deleted"


async def test_whose_an_evicted_object_was_is_kept_so_that_it_can_go_with_the_namespace(tmp_path: Path) -> None:
    index = await opened("sqlite", tmp_path, "", 10)
    await store(index, 1, 10, meta_of(chunk=1))
    await store(index, 2, CAPACITY, meta_of(chunk=2))
    await index.close()
    with sqlite3.connect(tmp_path / "index.sqlite") as db:
        assert db.execute("SELECT reason, namespace FROM departures").fetchall() == [("evicted", PUBLIC)]


def test_a_removal_that_says_no_reason_fails(tmp_path: Path) -> None:
    database = Database(":memory:", ticking(), Lru())
    database.reserve(key_of(1), 10, CAPACITY)
    database.commit(key_of(1), 10, meta_of())
    with pytest.raises(sqlite3.OperationalError, match="user-defined function"):
        database._db.execute("DELETE FROM objects")
    database.close()
