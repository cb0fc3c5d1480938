"""`kvquilt keys` as a process: keys are made, and changed under a store that is in use."""

import json
from pathlib import Path

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store import open_store
from kvquilt_codec.types import Level
from tests.codec.samples import make_chunk, make_object
from tests.e2e.commands import answer, kvquilt

KEY, CONTAINER, META = make_object(make_chunk(5), Level.HIGH, "doc")


async def test_a_key_is_made_used_and_replaced_while_a_node_goes_on(tmp_path: Path) -> None:
    first, keys = tmp_path / "first", tmp_path / "keys-of-nodes"
    assert answer("keys", "new", "--output", first) == [{"file": str(first)}]
    assert first.stat().st_mode & 0o777 == 0o600
    assert "exists" in kvquilt("keys", "new", "--output", first, code=2).stderr
    (second,) = answer("keys", "new")
    assert kvquilt("keys", "new").stdout.strip() not in (second["key"], first.read_text().strip())

    keys.write_text(first.read_text())
    settings = NodeSettings(path=tmp_path / "store", fsync=False, encryption_key_file=keys)
    store = await open_store(settings)
    await store.put_if_absent(KEY, CONTAINER, META)
    keys.write_text(f"{second['key']}\n{first.read_text()}")
    where = ("--data-dir", settings.path, "--set", f"node.encryption_key_file={keys}")
    assert answer("keys", "rotate", *where) == [{"wrapped": 2, "keys": 2}]
    assert answer("keys", "rotate", *where) == [{"wrapped": 0, "keys": 2}]
    assert await store.get(KEY) == [CONTAINER], "the node has unwrapped them before"
    await store.close()

    keys.write_text(second["key"])
    store = await open_store(settings)
    assert await store.get(KEY) == [CONTAINER]
    await store.close()
    refused = kvquilt(
        "keys", "rotate", "--data-dir", settings.path, "--json", code=2, KVQUILT_NODE__ENCRYPTION_KEY=first.read_text()
    )
    assert json.loads(refused.stderr)["error"]["reason"] == "wrong_encryption_key"
    assert first.read_text().strip() not in refused.stderr


def test_what_cannot_be_rotated_is_refused(tmp_path: Path) -> None:
    key = kvquilt("keys", "new").stdout
    assert "both are unset" in kvquilt("keys", "rotate", "--data-dir", tmp_path, code=2).stderr
    refused = kvquilt("keys", "rotate", "--data-dir", tmp_path, code=3, KVQUILT_NODE__ENCRYPTION_KEY=key)
    assert "expected an encrypted store" in refused.stderr


async def test_repair_of_an_encrypted_store(tmp_path: Path) -> None:
    key = kvquilt("keys", "new").stdout.strip()
    settings = NodeSettings(path=tmp_path, fsync=False, encryption_key=key)
    store = await open_store(settings)
    await store.put_if_absent(KEY, CONTAINER, META)
    await store.close()
    (done,) = answer("repair", "--data-dir", tmp_path, "--rebuild", KVQUILT_NODE__ENCRYPTION_KEY=key)
    assert (done["adopted"], done["deleted"]) == (1, 0)
    assert "what is stored is encrypted" in kvquilt("repair", "--data-dir", tmp_path, code=2).stderr
    store = await open_store(settings)
    assert await store.get(KEY) == [CONTAINER]
    await store.close()
    shown = kvquilt("config", "show", KVQUILT_NODE__ENCRYPTION_KEY=key)
    assert key not in shown.stdout + shown.stderr
