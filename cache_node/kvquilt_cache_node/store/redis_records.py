"""What a blob is in Redis: the names of its keys, its manifest, and the script that puts one in place of another."""

import re
import struct
from dataclasses import dataclass

import xxhash

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import DIGEST_BYTES

FRAME_BYTES = 1 << 20
"""Frames are of this size but for the last. Larger values take a server's only thread for longer."""

MAX_FRAMES = 1 << 14
"""Most frames of a blob: 16 GiB."""

GENERATION_BYTES = 8

_RECORD = struct.Struct(f"<4sIQQQI{GENERATION_BYTES}s")
_MAGIC, _VERSION = b"KVQR", 1
_CHECK_BYTES = 8
MANIFEST_BYTES = _RECORD.size + _CHECK_BYTES

SWAP = """
local found = redis.pcall('GETRANGE', KEYS[1], 0, tonumber(ARGV[1]))
if type(found) ~= 'string' then found = 'of another type' end
if found ~= ARGV[2] then return {0, found} end
local fresh = tonumber(ARGV[4])
for i = 2, fresh + 1 do
  if redis.call('EXISTS', KEYS[i]) == 0 then return {-1, ''} end
end
if ARGV[3] == '' then redis.call('UNLINK', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[3]) end
for i = 2, fresh + 1 do redis.call('PERSIST', KEYS[i]) end
for i = fresh + 2, #KEYS do redis.call('UNLINK', KEYS[i]) end
return {1, ''}
"""
"""Puts a manifest in place of another, if that one is still there; the only command that changes what readers see.

KEYS: the manifest; the frames of the new one; the frames of the old one. ARGV: the last byte of a manifest that is
looked at, the manifest that must be there (empty: none), the one to put (empty: none), how many frames are new.
Gives (1, "") if it is done, (0, what is there) if another manifest is there, (-1, "") if a new frame is gone.
The SET comes first because it alone can be refused (memory, a replica); nothing has been changed then.
"""

DROP_ORPHAN = """
local found = redis.pcall('GETRANGE', KEYS[1], 0, tonumber(ARGV[1]))
if type(found) == 'string' and string.find(found, ARGV[2], 1, true) then return 0 end
if redis.call('PTTL', KEYS[2]) ~= -1 then return 0 end
return redis.call('UNLINK', KEYS[2])
"""
"""Deletes a frame (KEYS[2]) that no expiry deletes and that the manifest (KEYS[1]) does not name: 1 if it did.

ARGV: the last byte of a manifest that is looked at, the frame's generation.
"""


@dataclass(frozen=True, slots=True)
class Manifest:
    """A blob as its manifest tells it: `size` bytes in frames of `frame_bytes` under a generation.

    Attributes:
        digest: XXH3 of all bytes, 64 bits.
        written: milliseconds since the epoch.
    """

    size: int
    frame_bytes: int
    generation: bytes
    digest: int
    written: int

    @property
    def frames(self) -> int:
        """How many there are."""
        return -(-self.size // self.frame_bytes)

    def encode(self) -> bytes:
        """As it is stored."""
        fields = (self.size, self.digest, self.written, self.frame_bytes, self.generation)
        record = _RECORD.pack(_MAGIC, _VERSION, *fields)
        return record + xxhash.xxh3_64_digest(record)

    @staticmethod
    def decode(data: bytes) -> "Manifest":
        """Check and read what a store gave.

        Raises:
            IntegrityError: another program's value, damage, or a future format.
        """
        record, check = data[: _RECORD.size], data[_RECORD.size :]
        if len(data) != MANIFEST_BYTES or not data.startswith(_MAGIC) or xxhash.xxh3_64_digest(record) != check:
            raise IntegrityError("expected a blob's manifest in Redis; what is there is damaged or another program's")
        _, version, size, digest, written, frame_bytes, generation = _RECORD.unpack(record)
        if version != _VERSION:
            raise IntegrityError(
                f"expected a manifest of version {_VERSION}; got {version}: a newer kvquilt wrote it",
                reason="unknown_version",
            )
        if not 0 < frame_bytes <= FRAME_BYTES or size > MAX_FRAMES * frame_bytes:
            raise IntegrityError(f"expected at most {MAX_FRAMES} frames of 1 MiB; got {size} bytes by {frame_bytes}")
        return Manifest(size, frame_bytes, generation, digest, written)


class Names:
    """Names of keys under a prefix. All keys of a blob share a hash tag, so that a Cluster keeps them in one slot."""

    def __init__(self, prefix: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.:/-]{1,64}", prefix):
            raise BadRequestError(f"expected a prefix of 1 to 64 letters, digits and _.:/-; got {prefix!r}")
        self._prefix = prefix + ":"
        name = rf"{re.escape(self._prefix)}\{{([0-9a-f]{{{2 * DIGEST_BYTES}}})\}}"
        self._name = re.compile(rf"{name}(?::([0-9a-f]{{{2 * GENERATION_BYTES}}}):\d+)?".encode())

    @property
    def all_manifests(self) -> str:
        """What SCAN finds manifests with."""
        return self._prefix + "{*}"

    @property
    def all_frames(self) -> str:
        """What SCAN finds frames with."""
        return self._prefix + "{*}:*"

    def frames_of(self, key: bytes) -> str:
        """What SCAN finds a blob's frames with, those of all generations."""
        return f"{self._prefix}{{{key.hex()}}}:*"

    def manifest(self, key: bytes) -> bytes:
        """Of a blob."""
        return f"{self._prefix}{{{key.hex()}}}".encode()

    def frame(self, key: bytes, generation: bytes, number: int) -> bytes:
        """Of a blob's frame."""
        return self.manifest(key) + f":{generation.hex()}:{number}".encode()

    def frames(self, key: bytes, manifest: Manifest | None) -> list[bytes]:
        """Of all of a blob's frames."""
        if manifest is None:
            return []
        return [self.frame(key, manifest.generation, number) for number in range(manifest.frames)]

    def parse(self, name: bytes) -> tuple[bytes, bytes | None] | None:
        """A blob's key, and of a frame the generation; `None` for names that are not ours."""
        found = self._name.fullmatch(name)
        if found is None:
            return None
        key, generation = found.groups()
        return bytes.fromhex(key.decode()), None if generation is None else bytes.fromhex(generation.decode())
