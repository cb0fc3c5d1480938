"""Encrypted blobs opened for tests: with fixed master keys, and keys of namespaces in a folder."""

import time
from pathlib import Path

from kvquilt_cache_node.store.key_store import FileKeys, KeyStore
from kvquilt_cache_node.store.keyring import Keyring
from kvquilt_cache_node.store.master_keys import MasterKeys
from kvquilt_cache_node.store.sealed import SealedBlobs
from kvquilt_cache_node.types import Blobs

SECRET, OTHER = bytes(range(32)), bytes(range(1, 33))
MASTER = MasterKeys(SECRET)


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
