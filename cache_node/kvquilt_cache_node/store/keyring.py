"""The keys of namespaces: made when first needed, wrapped by a master key, destroyed when a namespace is forgotten."""

import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable

from kvquilt_cache_node.store.key_store import STORE, KeyStore
from kvquilt_cache_node.store.master_keys import MasterKeys, key_id_of
from kvquilt_cache_node.store.sealed_format import KEY_BYTES, KEY_ID_BYTES, SLOT_BYTES, NamespaceKey
from kvquilt_codec.errors import BadRequestError, IntegrityError, UnavailableError
from kvquilt_codec.identity import framed

log = logging.getLogger(__name__)

FRESH_SECONDS = 10.0
"""So long a node reads with a key that it has unwrapped without asking whether it still exists."""
MAX_KEPT = 1024
"""Unwrapped keys that a node holds at most."""


class Keyring:
    """Keys by namespace. Open it with `Keyring.open`.

    What is written is sealed under a key that the key store had a moment before; what is read may be opened with a key
    that it had up to `FRESH_SECONDS` before.
    """

    def __init__(self, store: KeyStore, masters: MasterKeys, names_key: bytes, clock: Callable[[], float]) -> None:
        self._store = store
        self._masters = masters
        self._names_key = names_key
        self._clock = clock
        self._kept: OrderedDict[str, tuple[NamespaceKey, bytes, float]] = OrderedDict()

    @classmethod
    async def open(cls, store: KeyStore, masters: MasterKeys, clock: Callable[[], float]) -> "Keyring":
        """Open the keys of a store, which is given a key of its own if it has none.

        Args:
            store: where they are kept; closed with the keyring.
            masters: the configured ones.
            clock: seconds, which never go back.

        Raises:
            BadRequestError: none of the master keys is one of this store's (reason `wrong_encryption_key`).
            IntegrityError: what tells so is damaged, or of a future version.
            UnavailableError, DeadlineError: the key store fails.
        """
        record = await store.get(STORE)
        if record is None:
            fresh = masters.wrap(STORE, secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(KEY_BYTES))
            record = await store.swap(STORE, None, fresh)
        try:
            return cls(store, masters, masters.unwrap(STORE, record), clock)
        except UnavailableError as error:
            raise BadRequestError(str(error), reason="wrong_encryption_key") from None
        except IntegrityError as error:
            raise IntegrityError(
                f"expected the key store to open with node.encryption_key; {error}. Without it nothing that is stored "
                "can be read: restore the key store from a backup, or begin with an empty store",
                reason=error.reason,
            ) from None

    def counted(self) -> tuple[int, int]:
        """How many master keys are configured, and how many keys of namespaces are unwrapped now."""
        return len(self._masters), len(self._kept)

    async def sealing(self, namespace: str) -> NamespaceKey:
        """The key that a namespace's blobs are sealed under now; made if there is none.

        Raises:
            UnavailableError: its record is damaged, or wrapped with a master key that this node has not; or the key
                store fails.
        """
        slot = self._slot(namespace)
        name = slot.hex()
        record = await self._store.get(name)
        if record is None:
            fresh = self._masters.wrap(name, secrets.token_bytes(KEY_ID_BYTES), secrets.token_bytes(KEY_BYTES))
            record = await self._store.swap(name, None, fresh)
        return self._unwrapped(slot, name, record)

    async def opening(self, slot: bytes, key_id: bytes) -> NamespaceKey:
        """The key of this id.

        Raises:
            IntegrityError: it is destroyed, or never was (reason `key_destroyed`).
            UnavailableError: as in `sealing`.
        """
        name = slot.hex()
        if (kept := self._kept.get(name)) is not None:
            key, _, since = kept
            if key.key_id == key_id and self._clock() - since < FRESH_SECONDS:
                return key
        record = await self._store.get(name)
        if record is not None:
            key = self._unwrapped(slot, name, record)
            if key.key_id == key_id:
                return key
        else:
            self._kept.pop(name, None)
        raise IntegrityError(
            f"expected the key {key_id.hex()} of a sealed object; there is none: its namespace was forgotten, or the "
            "key store lost",
            reason="key_destroyed",
        )

    async def destroy(self, namespace: str) -> bool:
        """Destroy a namespace's key: nothing that is sealed under it can be opened again. `False` if it has none.

        On other nodes that may take `FRESH_SECONDS`.
        """
        name = self._slot(namespace).hex()
        destroyed = await self._store.delete(name)
        self._kept.pop(name, None)
        return destroyed

    async def rewrap(self) -> tuple[int, int]:
        """Wrap with the first master key what others wrapped; what is sealed stays as it is.

        Returns:
            Records that were wrapped anew, and records there are.

        Raises:
            IntegrityError, UnavailableError: a record is damaged, or of an unknown master key. The others are done
                up to there; it may be called again.
        """
        names, done = await self._store.names(), 0
        for name in names:
            record = await self._store.get(name)
            if record is None or self._masters.is_current(name, record):
                continue
            fresh = self._masters.wrap(name, key_id_of(name, record), self._masters.unwrap(name, record))
            done += await self._store.swap(name, record, fresh) == fresh  # or somebody destroyed it meanwhile
        return done, len(names)

    async def close(self) -> None:
        """Forget the unwrapped keys and release the key store."""
        self._kept.clear()
        await self._store.close()

    def _slot(self, namespace: str) -> bytes:
        return hmac.digest(self._names_key, framed(b"kvquilt key slot v1", namespace.encode()), "sha256")[:SLOT_BYTES]

    def _unwrapped(self, slot: bytes, name: str, record: bytes) -> NamespaceKey:
        kept = self._kept.get(name)
        if kept is not None and kept[1] == record:
            key = kept[0]
        else:
            try:
                key = NamespaceKey(slot, key_id_of(name, record), self._masters.unwrap(name, record))
            except IntegrityError as error:  # of the key store: the blobs may be sound, and stay
                log.error("%s", error)
                raise UnavailableError(str(error), reason=error.reason) from None
        self._kept[name] = (key, record, self._clock())
        self._kept.move_to_end(name)
        if len(self._kept) > MAX_KEPT:
            self._kept.popitem(last=False)
        return key
