"""Keys of namespaces: where they are kept, that a destroyed one is gone, and that master keys can be changed."""

import asyncio
import base64
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.store.key_store import STORE, FileKeys, KeyStore, MemoryKeys
from kvquilt_cache_node.store.keyring import FRESH_SECONDS, MAX_KEPT, Keyring
from kvquilt_cache_node.store.master_keys import MasterKeys, create_master_key
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions
from kvquilt_cache_node.store.redis_keys import RedisKeys
from kvquilt_codec.errors import BadRequestError, IntegrityError, UnavailableError
from tests import servers
from tests.cache_node.remote import prefix_of
from tests.cache_node.sealing import MASTER, OTHER, SECRET, Clock, keyring

Opening = Callable[[], Awaitable[KeyStore]]


@pytest.fixture(params=["memory", "file", "redis", "cluster"])
async def opening(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opening]:
    """Opens the same key store each time, as each node does that shares it."""
    opened: list[KeyStore] = []
    memory = MemoryKeys()

    async def open_one() -> KeyStore:
        match request.param:
            case "memory":
                store: KeyStore = memory
            case "file":
                store = FileKeys(tmp_path / "keys")
            case kind:
                of_cluster = kind == "cluster"
                server = request.getfixturevalue("valkey_cluster" if of_cluster else "valkey")
                url = servers.cluster_url(server) if of_cluster else server.url
                store = RedisKeys(await RedisClient.connect(RedisUrl.parse(url), RedisOptions()), prefix_of(tmp_path))
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


# Key stores


async def test_records_are_swapped_read_and_destroyed(opening: Opening) -> None:
    one, other = await opening(), await opening()
    assert await one.get("a") is None
    assert await one.names() == []
    assert await one.swap("a", None, b"first") == b"first"
    assert await other.swap("a", None, b"second") == b"first", "what is there stays, and is told"
    assert await other.swap("a", b"first", b"third") == b"third"
    assert await one.swap("a", b"first", b"fourth") == b"third"
    assert await one.swap("b", b"gone", b"fifth") == b"", "nothing is put in place of what was destroyed"
    await one.swap("c", None, b"x")
    assert sorted(await other.names()) == ["a", "c"]
    assert [await one.delete("a"), await other.delete("a")] == [True, False]
    assert [await store.get("a") for store in (one, other)] == [None, None]
    assert await other.names() == ["c"]


async def test_of_nodes_that_make_a_key_at_once_all_get_the_same(opening: Opening) -> None:
    rings = await asyncio.gather(*[keyring(await opening()) for _ in range(6)])
    keys = await asyncio.gather(*(ring.sealing("team-a") for ring in rings))
    assert len(set(keys)) == 1
    assert await rings[0].opening(keys[0].slot, keys[0].key_id) == keys[0]


async def test_a_destroyed_key_opens_nothing_on_any_node_after_the_bound(opening: Opening) -> None:
    clock = Clock()
    one, other = await keyring(await opening(), clock=clock), await keyring(await opening(), clock=clock)
    old, kept = await one.sealing("team-a"), await one.sealing("team-b")
    assert await other.opening(old.slot, old.key_id) == old
    assert await one.destroy("team-a") is True
    assert await one.destroy("team-a") is False
    with pytest.raises(IntegrityError, match="forgotten") as caught:
        await one.opening(old.slot, old.key_id)
    assert caught.value.reason == "key_destroyed"
    assert (await other.sealing("team-a")).key_id != old.key_id, "no node seals under a destroyed key, at no time"
    clock.now += FRESH_SECONDS
    with pytest.raises(IntegrityError, match="forgotten"):
        await other.opening(old.slot, old.key_id)
    assert await other.opening(kept.slot, kept.key_id) == kept, "others' keys stay"


async def test_master_keys_are_changed_while_two_nodes_go_on(opening: Opening) -> None:
    before = await keyring(await opening(), MasterKeys(SECRET))
    keys = [await before.sealing(name) for name in ("", "public", "team-a")]
    both = await keyring(await opening(), MasterKeys(OTHER, SECRET))
    assert await both.sealing("team-a") == keys[2], "what the old one wrapped is read"
    assert await both.rewrap() == (4, 4), "the store's own key is one of them"
    assert await both.rewrap() == (0, 4)
    after = await keyring(await opening(), MasterKeys(OTHER))
    assert [await after.opening(key.slot, key.key_id) for key in keys] == keys, "what is stored stays readable"
    with pytest.raises(BadRequestError) as caught:
        await keyring(await opening(), MasterKeys(SECRET))
    assert caught.value.reason == "wrong_encryption_key"


async def test_a_key_that_is_destroyed_while_it_is_wrapped_anew_does_not_come_back(opening: Opening) -> None:
    store = await opening()
    ring = await keyring(store, MasterKeys(SECRET))
    key = await ring.sealing("team-a")
    rotating = await keyring(store, MasterKeys(OTHER, SECRET))
    swap = store.swap

    async def destroyed_before(name: str, expected: bytes | None, record: bytes) -> bytes:
        await store.delete(key.slot.hex())
        return await swap(name, expected, record)

    store.swap = destroyed_before  # type: ignore[method-assign]
    await rotating.rewrap()
    assert await store.get(key.slot.hex()) is None


# Files


async def test_a_file_of_a_destroyed_or_replaced_key_is_overwritten(tmp_path: Path) -> None:
    store = FileKeys(tmp_path)
    await store.swap("a", None, b"the first record")
    with (tmp_path / "a.key").open("rb") as held, (tmp_path / "a.key").open("rb") as held_too:
        await store.swap("a", b"the first record", b"the second record")
        assert held.read() == bytes(16)
        with (tmp_path / "a.key").open("rb") as second:
            await store.delete("a")
            assert second.read() == bytes(17)
        assert held_too.read() == bytes(16)
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


async def test_a_crash_while_a_file_is_destroyed_leaves_no_key(tmp_path: Path) -> None:
    (tmp_path / "a.key").write_bytes(bytes(112))
    store = FileKeys(tmp_path)
    assert (await store.get("a"), await store.names()) == (None, [])
    assert await store.swap("a", None, b"new") == b"new"


async def test_files_are_their_owners_alone(tmp_path: Path) -> None:
    await (await keyring(tmp_path / "keys")).sealing("team-a")
    assert (tmp_path / "keys").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "keys").glob("*.key")} == {0o600}


async def test_a_folder_that_cannot_be_written_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("a file")
    assert await FileKeys(tmp_path / "keys").get("a") is None
    with pytest.raises(UnavailableError, match="key store that can be read"):
        await keyring(tmp_path / "keys")


# What is wrong


async def test_another_master_key_is_refused_with_the_id_of_the_right_one_and_without_any_key() -> None:
    store = MemoryKeys()
    await keyring(store, MasterKeys(SECRET))
    with pytest.raises(BadRequestError, match=MasterKeys(SECRET).ids[0]) as caught:
        await keyring(store, MasterKeys(OTHER))
    assert caught.value.reason == "wrong_encryption_key"
    for secret in (SECRET, OTHER):
        assert secret.hex() not in str(caught.value)
        assert base64.b64encode(secret).decode() not in str(caught.value)


@pytest.mark.parametrize("record", [b"", b"KVQK", bytes(112), b"x" * 4096])
async def test_a_damaged_record_makes_misses_and_loses_no_object(
    record: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    store = MemoryKeys()
    ring = await keyring(store)
    key = await ring.sealing("team-a")
    good = store._records[key.slot.hex()]
    store._records[key.slot.hex()] = record
    for call in (ring.sealing("team-a"), (await keyring(store)).opening(key.slot, key.key_id)):
        with pytest.raises(UnavailableError) as caught:  # an IntegrityError would delete the object
            await call
        assert caught.value.reason == "key_damaged"
    assert "damaged" in caplog.text
    assert await ring.sealing("team-b") != key
    store._records[key.slot.hex()] = good
    assert await (await keyring(store)).opening(key.slot, key.key_id) == key
    store._records[STORE] = record
    with pytest.raises(IntegrityError, match="restore the key store"):
        await keyring(store)


async def test_each_bit_of_a_record_counts_and_so_does_its_name() -> None:
    record = MASTER.wrap("a", bytes(16), bytes(range(32)))
    assert MASTER.unwrap("a", record) == bytes(range(32))
    for bit in range(len(record) * 8):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises((IntegrityError, UnavailableError)):
            MASTER.unwrap("a", bytes(damaged))
    with pytest.raises(IntegrityError):
        MASTER.unwrap("b", record)


async def test_redis_that_holds_something_else_under_the_name_makes_misses(
    valkey: servers.RedisServer, tmp_path: Path
) -> None:
    client = await RedisClient.connect(RedisUrl.parse(valkey.url), RedisOptions())
    store = RedisKeys(client, prefix_of(tmp_path))
    await client.call("SET", f"{prefix_of(tmp_path)}:keys", "something else")
    for call in (store.get("a"), store.swap("a", None, b"x"), store.delete("a"), store.names()):
        with pytest.raises(UnavailableError, match="keys of namespaces"):
            await call
    await client.call("UNLINK", f"{prefix_of(tmp_path)}:keys")
    await store.close()
    with pytest.raises(UnavailableError, match="closed"):
        await store.get("a")


@pytest.mark.parametrize(
    "text", ["", "short", "====", base64.b64encode(bytes(31)).decode(), "!" * 44, f"{'A' * 43}=\n{'A' * 43}="]
)
def test_text_that_is_no_keys_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(BadRequestError, match=r"in node\.encryption_key") as caught:
        MasterKeys.parse(text, "node.encryption_key")
    assert not text or text not in str(caught.value)


def test_keys_are_read_as_they_are_made_one_or_several() -> None:
    made = [create_master_key() for _ in range(3)]
    assert MasterKeys.parse("\n".join(made) + "\n", "x").ids == MasterKeys.parse(",".join(made), "x").ids
    safe = base64.urlsafe_b64encode(b"\xff" * 32).decode()
    assert MasterKeys.parse(safe, "x").ids == MasterKeys(b"\xff" * 32).ids


async def test_secrets_are_in_no_representation_and_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ring = await keyring(MemoryKeys())
    key = await ring.sealing("team-a")
    await ring.destroy("team-a")
    said = f"{key!r} {ring!r} {MASTER!r} {MASTER.__dict__!r} {caplog.text}"
    for secret in (key.secret, SECRET):
        assert repr(secret)[2:-1] not in said
        assert secret.hex() not in said


async def test_a_node_holds_a_bounded_number_of_unwrapped_keys() -> None:
    ring: Keyring = await keyring(MemoryKeys())
    keys = [await ring.sealing(f"n{number}") for number in range(MAX_KEPT + 5)]
    assert len(ring._kept) == MAX_KEPT
    assert await ring.opening(keys[0].slot, keys[0].key_id) == keys[0]
