"""The sealed form of a blob: a header in clear, then pages under AES-256-GCM. Pure computation; needs `cryptography`.

The construction is STREAM (Hoang, Reyhanitabar, Rogaway and Vizar, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance", CRYPTO 2015, figure 9): the nonce of a page is its number and whether it is the last
one, so pages can be neither reordered, dropped nor added, and each can be opened alone. Every write has a key of its
own, derived by HKDF-SHA-256 (RFC 5869) from the namespace's key and a random salt, so a nonce is used once under a key
(NIST SP 800-38D, 8.2.1: fewer than 2^32 invocations a key). docs/formats.md has the bytes.
"""

import io
import secrets
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kvquilt_cache_node.store.ranges import check_ranges, merged
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import framed

MAGIC = b"KVQSEAL\x00"
VERSION = 1
PAGE_BYTES = 1 << 16
TAG_BYTES = 16
KEY_BYTES = 32
SLOT_BYTES = 16
KEY_ID_BYTES = 16
SALT_BYTES = 32
MAX_SIZE = PAGE_BYTES << 32
"""The nonce counts pages in 32 bits."""
_HEADER = struct.Struct("<8sHHIQ16s16s32s")
"""magic, version, reserved (0), bytes of a page, bytes of the blob, slot, key id, salt."""
HEADER_BYTES = _HEADER.size
_NONCE = struct.Struct(">7xIB")


@dataclass(frozen=True, slots=True)
class NamespaceKey:
    """A key that a namespace's blobs are sealed under.

    Attributes:
        slot: where it is kept: 16 bytes that tell the namespace's name to nobody who has no key of the store.
        key_id: 16 random bytes; a namespace that is forgotten and used again has another key in the same slot.
        secret: 32 random bytes.
    """

    slot: bytes
    key_id: bytes
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """What stands before the pages, in clear. None of it is believed before a page was opened with it.

    Attributes:
        raw: the bytes.
        size: bytes of the blob.
        slot: of the namespace's key.
        key_id: of that key.
        salt: of this write.
    """

    raw: bytes
    size: int
    slot: bytes
    key_id: bytes
    salt: bytes

    @classmethod
    def parse(cls, raw: bytes) -> "SealedHeader":
        """Read a header.

        Raises:
            IntegrityError: not sealed (reason `not_sealed`), of another version, or cut off.
        """
        if not raw.startswith(MAGIC):
            raise IntegrityError(
                "expected a sealed object; got one that is not: it was stored without encryption", reason="not_sealed"
            )
        if len(raw) != HEADER_BYTES:
            raise IntegrityError(f"expected a sealed header of {HEADER_BYTES} bytes; got {len(raw)}: truncated")
        _, version, reserved, page_bytes, size, slot, key_id, salt = _HEADER.unpack(raw)
        if (version, reserved, page_bytes) != (VERSION, 0, PAGE_BYTES):
            raise IntegrityError(
                f"expected sealed version {VERSION}, reserved 0, pages of {PAGE_BYTES} bytes; got version {version}, "
                f"reserved {reserved}, pages of {page_bytes}",
                reason="unknown_version",
            )
        if size > MAX_SIZE:
            raise IntegrityError(f"expected a sealed object of at most {MAX_SIZE} bytes; got {size}")
        return cls(bytes(raw), size, slot, key_id, salt)

    def pages(self, ranges: Sequence[ByteRange]) -> list[ByteRange]:
        """Ascending, half-open runs of pages that cover all ranges but empty ones.

        Raises:
            IntegrityError: a range lies outside the blob.
        """
        check_ranges(ranges, self.size)
        touched = [(begin // PAGE_BYTES, -(-end // PAGE_BYTES)) for begin, end in ranges if begin < end]
        return merged(touched, 0)

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return _page_count(self.size)

    def complete(self, page: int, nbytes: int, limit: int) -> ByteRange | None:
        """The run of pages from `page` on, at most `limit`, whose sealed bytes are the next `nbytes`, or among them."""
        end = min(page + limit, self.page_count)
        begin, after = self.sealed((page, end))
        if nbytes < after - begin:
            end = page + nbytes // (PAGE_BYTES + TAG_BYTES)
        return (page, end) if end > page else None

    def plain(self, pages: ByteRange) -> ByteRange:
        """The blob's bytes that a run of pages holds."""
        return pages[0] * PAGE_BYTES, min(pages[1] * PAGE_BYTES, self.size)

    def sealed(self, pages: ByteRange) -> ByteRange:
        """The bytes on the medium that a run of pages takes."""
        begin, end = self.plain(pages)
        return HEADER_BYTES + begin + pages[0] * TAG_BYTES, HEADER_BYTES + end + pages[1] * TAG_BYTES


def stored_size(size: int) -> int:
    """Bytes that a blob takes when it is sealed: the header, and a tag for each page; an empty blob has one page."""
    return HEADER_BYTES + size + TAG_BYTES * _page_count(size)


def plain_size(stored: int) -> int:
    """Bytes of the blob that takes `stored` bytes when it is sealed; -1 if none does."""
    pages = max(1, -(-(stored - HEADER_BYTES) // (PAGE_BYTES + TAG_BYTES)))
    size = stored - HEADER_BYTES - pages * TAG_BYTES
    return size if size >= 0 and stored_size(size) == stored else -1


def seal(key: NamespaceKey, blob_key: bytes, data: bytes) -> bytes:
    """The sealed form of a blob; another one at every call.

    Args:
        key: of its namespace.
        blob_key: under which the blob is kept; it cannot be opened under another.
        data: the blob.

    Raises:
        BadRequestError: larger than `MAX_SIZE`.
    """
    if len(data) > MAX_SIZE:
        raise BadRequestError(f"expected at most {MAX_SIZE} bytes to seal; got {len(data)}")
    salt = secrets.token_bytes(SALT_BYTES)
    raw = _HEADER.pack(MAGIC, VERSION, 0, PAGE_BYTES, len(data), key.slot, key.key_id, salt)
    cipher = _cipher(key.secret, salt, raw, blob_key)
    pages, plain, bound = _page_count(len(data)), memoryview(data), raw + blob_key
    # Filled in place and taken without a copy: pages that come one by one and are joined cost half the speed.
    buffer = _filled(stored_size(len(data)))
    with buffer.getbuffer() as out:
        out[:HEADER_BYTES] = raw
        at = HEADER_BYTES
        for number in range(pages):
            page = plain[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
            end = at + len(page) + TAG_BYTES
            cipher.encrypt_into(nonce(number, number + 1 == pages), page, bound, out[at:end])
            at = end
    return buffer.getvalue()


def open_whole(key: NamespaceKey, blob_key: bytes, header: SealedHeader, sealed: bytes) -> bytes:
    """The blob, from all of its sealed form.

    Raises:
        IntegrityError: altered, truncated, extended, or the one of another key or namespace.
    """
    if len(sealed) != stored_size(header.size):
        raise IntegrityError(
            f"expected a sealed object of {stored_size(header.size)} bytes, as its header says; got {len(sealed)}: "
            "truncated or damaged"
        )
    return open_pages(key, blob_key, header, (0, header.page_count), memoryview(sealed)[HEADER_BYTES:])


def open_pages(
    key: NamespaceKey, blob_key: bytes, header: SealedHeader, pages: ByteRange, sealed: bytes | memoryview
) -> bytes:
    """The blob's bytes that a run of pages holds (`SealedHeader.plain`), from those on the medium.

    Raises:
        IntegrityError: altered, or of another place, blob, key or namespace. Nothing of it is handed out.
    """
    cipher = _cipher(key.secret, header.salt, header.raw, blob_key)
    total, view, bound = header.page_count, memoryview(sealed), header.raw + blob_key
    begin, end = header.plain(pages)
    buffer = _filled(end - begin)
    try:
        with buffer.getbuffer() as out:
            for number in range(*pages):
                at = (number - pages[0]) * PAGE_BYTES
                length = min(PAGE_BYTES, end - begin - at)
                source = at + (number - pages[0]) * TAG_BYTES
                page = view[source : source + length + TAG_BYTES]
                cipher.decrypt_into(nonce(number, number + 1 == total), page, bound, out[at : at + length])
    except (InvalidTag, ValueError):  # the latter for a page of another length
        raise IntegrityError(
            f"expected a page of object {blob_key.hex()[:16]}... as it was sealed; it is not: damaged, or put in place "
            "of another",
            reason="checksum",
        ) from None
    return buffer.getvalue()


def nonce(number: int, last: bool) -> bytes:
    """Of a page: 7 zero bytes, its number, and whether it is the last one."""
    return _NONCE.pack(number, last)


def derived(secret: bytes, salt: bytes, *info: bytes) -> bytes:
    """HKDF-SHA-256: 32 bytes for one purpose."""
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=framed(*info)).derive(secret)


def _cipher(secret: bytes, salt: bytes, header: bytes, blob_key: bytes) -> AESGCM:
    return AESGCM(derived(secret, salt, b"kvquilt sealed v1", header, blob_key))


def _page_count(size: int) -> int:
    return max(1, -(-size // PAGE_BYTES))


def _filled(size: int) -> io.BytesIO:
    """A buffer of so many bytes whose `getvalue` copies nothing."""
    buffer = io.BytesIO()
    if size:
        buffer.seek(size - 1)
        buffer.write(b"\0")
    return buffer
