"""Encrypted blobs opened for tests: with fixed master keys, and keys of namespaces in a folder."""

import time
from pathlib import Path

from kvquilt_cache_node.store.key_store import FileKeys, KeyStore
from kvquilt_cache_node.store.keyring import Keyring
from kvquilt_cache_node.store.master_keys import MasterKeys, create_master_key
from kvquilt_cache_node.store.sealed import SealedBlobs
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.types import Level
from tests.cache_node.calls import DEADLINE, KEY, Node
from tests.codec.samples import FINGERPRINT, make_chunk, make_object

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
MASTER = MasterKeys(SECRET)
KEY_TEXT, OTHER_TEXT = create_master_key(), create_master_key()
OBJECTS = {
    name: make_object(make_chunk(40, seed=seed), Level.HIGH, "doc", namespace=name)
    for seed, name in enumerate(("team-a", PUBLIC))
}
"""Key, container and description of an object of each namespace."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def keyring(store: KeyStore | Path, masters: MasterKeys = MASTER, clock: Clock | None = None) -> Keyring:
    """The keys of a store, or of those in a folder."""
    opened = FileKeys(store) if isinstance(store, Path) else store
    return await Keyring.open(opened, masters, clock or time.monotonic)


async def sealed(lower: Blobs, folder: Path) -> SealedBlobs:
    """Encrypted blobs whose keys are below a folder."""
    return SealedBlobs(lower, await keyring(folder / "keys"))


async def container_of(node: Node) -> bytes:
    """The container that `tests/cache_node/calls.py` puts, from a node."""
    got = [item async for item in node.client.get(KEY, FINGERPRINT, deadline=DEADLINE)]
    return b"".join(item for item in got if isinstance(item, bytes))
