"""Master keys, which wrap the keys of namespaces (envelope encryption). Pure computation; needs `cryptography`."""

import base64
import binascii
import hmac
import secrets
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kvquilt_cache_node.store.sealed_format import (
    KEY_BYTES,
    KEY_ID_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    derived,
    nonce,
)
from kvquilt_codec.errors import BadRequestError, IntegrityError, UnavailableError

MAX_MASTER_KEYS = 16
_MAGIC = b"KVQK"
_VERSION = 1
_ID = b"kvquilt master key id v1"
_RECORD = struct.Struct(f"<4sHH8s{KEY_ID_BYTES}s{SALT_BYTES}s{KEY_BYTES + TAG_BYTES}s")
"""magic, version, reserved (0), id of the master key, key id, salt, the key under AES-256-GCM."""
_BOUND_BYTES = _RECORD.size - KEY_BYTES - TAG_BYTES


def create_master_key() -> str:
    """A new master key: 32 random bytes in base64."""
    return base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()


@dataclass(frozen=True, slots=True)
class _Master:
    id: bytes
    secret: bytes = field(repr=False)


class MasterKeys:
    """Master keys; the first wraps, each unwraps what it wrapped. They know each other by an id that follows from them.

    Args:
        keys: 32 bytes each, 1 to 16 of them, none twice.

    Raises:
        BadRequestError: others.
    """

    def __init__(self, *keys: bytes) -> None:
        if not 1 <= len(keys) <= MAX_MASTER_KEYS or len(set(keys)) != len(keys):
            raise BadRequestError(f"expected 1..{MAX_MASTER_KEYS} different encryption keys; got {len(keys)}")
        if any(len(secret) != KEY_BYTES for secret in keys):
            raise BadRequestError(f"expected encryption keys of {KEY_BYTES} bytes each; got another length")
        masters = [_Master(hmac.digest(secret, _ID, "sha256")[:8], secret) for secret in keys]
        self._first = masters[0]
        self._by_id = {master.id: master for master in masters}

    def __len__(self) -> int:
        return len(self._by_id)

    @classmethod
    def parse(cls, text: str, where: str) -> "MasterKeys":
        """Keys in base64, separated by white space or commas.

        Args:
            text: of the setting or the file.
            where: its name, for errors, which never show the text.

        Raises:
            BadRequestError: something else.
        """
        words = text.replace(",", " ").split()
        try:
            keys = [base64.b64decode(word.translate(_URL_SAFE), validate=True) for word in words]
        except (binascii.Error, ValueError):
            keys = []
        try:
            return cls(*keys)
        except BadRequestError as error:
            raise BadRequestError(
                f"expected keys of {KEY_BYTES} random bytes in base64 in {where}; {error}: make one "
                "with `kvquilt keys new`"
            ) from None

    @property
    def ids(self) -> list[str]:
        """Ids of the keys, in hex, the first one's first."""
        return [key.hex() for key in self._by_id]

    def wrap(self, name: str, key_id: bytes, secret: bytes) -> bytes:
        """The record of a key, to be kept under this name.

        Args:
            name: of the record; it can be unwrapped under no other.
            key_id: 16 bytes.
            secret: 32 bytes.
        """
        salt = secrets.token_bytes(SALT_BYTES)
        bound = _RECORD.pack(_MAGIC, _VERSION, 0, self._first.id, key_id, salt, b"")[:_BOUND_BYTES]
        wrapped = _cipher(self._first, salt, name).encrypt(nonce(0, True), secret, bound)
        return bound + wrapped

    def unwrap(self, name: str, record: bytes) -> bytes:
        """The key of a record.

        Raises:
            IntegrityError: no record, of another version, or not the one of this name.
            UnavailableError: wrapped with a key that is not among these (reason `unknown_master_key`).
        """
        master_id, _ = _parsed(name, record)
        master = self._by_id.get(master_id)
        if master is None:
            raise UnavailableError(
                f"expected a key in node.encryption_key that keys of this store are wrapped with, {master_id.hex()}; "
                f"got {', '.join(self.ids)}: add it",
                reason="unknown_master_key",
            )
        salt = record[_BOUND_BYTES - SALT_BYTES : _BOUND_BYTES]
        try:
            return _cipher(master, salt, name).decrypt(nonce(0, True), record[_BOUND_BYTES:], record[:_BOUND_BYTES])
        except InvalidTag:
            raise _damaged(name) from None

    def is_current(self, name: str, record: bytes) -> bool:
        """Whether the first key wrapped a record; errors as in `unwrap`."""
        return _parsed(name, record)[0] == self._first.id


def key_id_of(name: str, record: bytes) -> bytes:
    """The id of the key that a record holds.

    Raises:
        IntegrityError: no record, or of another version.
    """
    return _parsed(name, record)[1]


_URL_SAFE = str.maketrans("-_", "+/")


def _parsed(name: str, record: bytes) -> tuple[bytes, bytes]:
    """Id of the master key, and of the key."""
    if len(record) != _RECORD.size or not record.startswith(_MAGIC):
        raise _damaged(name)
    _, version, reserved, master_id, key_id, _, _ = _RECORD.unpack(record)
    if (version, reserved) != (_VERSION, 0):
        raise IntegrityError(
            f"expected a wrapped key of version {_VERSION}; the record {name} is of version {version}: upgrade kvquilt",
            reason="unknown_version",
        )
    return master_id, key_id


def _damaged(name: str) -> IntegrityError:
    return IntegrityError(
        f"expected a wrapped key in the record {name} of the key store; it is damaged: restore it, or forget "
        "its namespace",
        reason="key_damaged",
    )


def _cipher(master: _Master, salt: bytes, name: str) -> AESGCM:
    return AESGCM(derived(master.secret, salt, b"kvquilt wrapped key v1", name.encode()))
