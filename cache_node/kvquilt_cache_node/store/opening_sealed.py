"""Opens the keys that the settings name, and puts encryption around what is opened with them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from kvquilt_cache_node.index_types import Index
from kvquilt_cache_node.rules import StayRules
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.indexed import IndexedStore
from kvquilt_cache_node.store.key_store import STORE, FileKeys, KeyStore, MemoryKeys
from kvquilt_cache_node.store.opening_blobs import not_installed
from kvquilt_cache_node.store.repair import Describe
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.errors import BadRequestError, NotFoundError

if TYPE_CHECKING:
    from kvquilt_cache_node.store.keyring import Keyring

MAX_FILE_BYTES = 1 << 16


class Sealing:
    """How a store is encrypted: under these keys, or (`None`) not at all."""

    def __init__(self, keyring: "Keyring | None") -> None:
        self._keyring = keyring

    @classmethod
    async def open(cls, settings: NodeSettings) -> "Sealing":
        """Open the keys of the configured store.

        Raises:
            BadRequestError: the store is encrypted and no key is configured (reason `encryption_key_missing`), or none
                of its keys (`wrong_encryption_key`); or no key at all, or `cryptography` is not installed.
            NotFoundError: there is no file of keys.
            IntegrityError: the key store is damaged, or of a format that this version does not know.
            UnavailableError, DeadlineError, CapacityError: it cannot be read or written.
        """
        text = _configured(settings)
        store = await open_key_store(settings)
        try:
            if text is not None:
                return cls(await _keyring(store, *text))
            if await store.get(STORE) is not None:
                raise BadRequestError(
                    "expected node.encryption_key or node.encryption_key_file, for what is stored is encrypted; both "
                    "are unset: set the key, or begin with an empty store",
                    reason="encryption_key_missing",
                )
        except BaseException:
            await store.close()
            raise
        await store.close()
        return cls(None)

    @property
    def counted(self) -> "Callable[[], tuple[int, int]] | None":
        """Tells how many keys there are; see `NodeMeter.keys`."""
        return None if self._keyring is None else self._keyring.counted

    def describing(self, describe: Describe) -> Describe:
        """What describes blobs as they are on the medium, where `describe` does it for the blobs themselves."""
        if self._keyring is None:
            return describe
        from kvquilt_cache_node.store.sealed import describing

        return describing(self._keyring, describe)

    def store(self, blobs: Blobs, index: Index, capacity: int, rules: StayRules) -> IndexedStore:
        """The store of blobs that are as they are on the medium. It closes the keys too."""
        if self._keyring is None:
            return IndexedStore(blobs, index, capacity, rules)
        from kvquilt_cache_node.store.sealed import SealedBlobs

        sealed = SealedBlobs(blobs, self._keyring)
        return IndexedStore(sealed, index, capacity, rules, sealed)

    async def close(self) -> None:
        """Release the keys, if there is no store that does."""
        if self._keyring is not None:
            await self._keyring.close()


def create_key() -> str:
    """A new key, as the settings take it.

    Raises:
        BadRequestError: `cryptography` is not installed.
    """
    try:
        from kvquilt_cache_node.store.master_keys import create_master_key
    except ModuleNotFoundError as error:
        raise _not_installed(error, "a new key") from None
    return create_master_key()


async def rewrap(settings: NodeSettings) -> tuple[int, int]:
    """Wrap with the first of the configured keys what others wrapped, as `Keyring.rewrap`. Nodes may be running.

    Raises:
        BadRequestError: no key is configured, or none of this store's.
        NotFoundError: nothing is encrypted there.
        IntegrityError, UnavailableError: as `Keyring.rewrap`.
    """
    configured = _configured(settings)
    if configured is None:
        raise BadRequestError("expected node.encryption_key or node.encryption_key_file; both are unset")
    store = await open_key_store(settings)
    try:
        if await store.get(STORE) is None:
            raise NotFoundError("expected an encrypted store; the configured one has no keys")
        return await (await _keyring(store, *configured)).rewrap()
    finally:
        await store.close()


async def open_key_store(settings: NodeSettings) -> KeyStore:
    """Where the keys of the configured store are: with its index.

    Raises:
        BadRequestError, UnavailableError, DeadlineError: as for the index.
    """
    if settings.index == "redis":
        try:
            from kvquilt_cache_node.store.opening_redis import connect
            from kvquilt_cache_node.store.redis_keys import RedisKeys
        except ModuleNotFoundError as error:
            raise not_installed(error, "node.index", "redis") from None
        return RedisKeys(await connect(settings), settings.redis_prefix)
    if settings.store == "memory":
        return MemoryKeys()
    return FileKeys((settings.path if settings.store == "file" else settings.path / settings.store) / "keys")


def _configured(settings: NodeSettings) -> tuple[str, str] | None:
    """The configured keys as text, and the setting that they are from."""
    if settings.encryption_key is not None:
        return settings.encryption_key.get_secret_value(), "node.encryption_key"
    if settings.encryption_key_file is not None:
        return _content(settings.encryption_key_file), "node.encryption_key_file"
    return None


def _content(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_FILE_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        raise NotFoundError(f"expected a file of keys at {path} (node.encryption_key_file); there is none") from None
    except OSError as error:
        raise BadRequestError(f"expected a file that can be read in node.encryption_key_file; got {error}") from None


async def _keyring(store: KeyStore, text: str, setting: str) -> "Keyring":
    try:
        from kvquilt_cache_node.store.keyring import Keyring
        from kvquilt_cache_node.store.master_keys import MasterKeys
    except ModuleNotFoundError as error:
        raise _not_installed(error, setting) from None
    return await Keyring.open(store, MasterKeys.parse(text, setting), time.monotonic)


def _not_installed(error: ModuleNotFoundError, what: str) -> BadRequestError:
    return BadRequestError(
        f"expected the package {error.name} for {what}; it is not installed: pip install 'kvquilt[encryption]'"
    )
