"""How a blob lies in a hot tier: with the time of its storing and a checksum of each block, so that it proves itself.

A head of 32 bytes (magic, version, `Stored.at`, size, XXH3-64 of the head up to there and the digests), the XXH3-64
digests of the blob's blocks of 64 KiB, the blob. All little-endian.
"""

import struct
from collections.abc import Sequence

import xxhash

from kvquilt_cache_node.index_types import Stored
from kvquilt_cache_node.store.ranges import cut, merged
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import IntegrityError

MAGIC, VERSION = b"KVQH", 1
BLOCK_BYTES = 64 << 10

_HEAD = struct.Struct("<4sIdQ")
_DIGEST = struct.Struct("<Q")
_HEAD_BYTES = _HEAD.size + _DIGEST.size


def size_in(size: int) -> int:
    """Bytes that a blob of `size` bytes takes in an envelope."""
    return _front(size) + size


def sealed(data: bytes, stored_at: float) -> bytes:
    """The envelope of a blob."""
    head = _HEAD.pack(MAGIC, VERSION, stored_at, len(data))
    view = memoryview(data)
    digests = b"".join(
        _DIGEST.pack(xxhash.xxh3_64_intdigest(view[begin : begin + BLOCK_BYTES]))
        for begin in range(0, len(data), BLOCK_BYTES)
    )
    return b"".join((head, _DIGEST.pack(xxhash.xxh3_64_intdigest(head + digests)), digests, data))


def asked(ranges: Sequence[ByteRange], size: int) -> list[ByteRange]:
    """The ranges of an envelope that prove these ranges of its blob, which lie within `size` bytes."""
    front = _front(size)
    return [(0, front), *((front + begin, front + end) for begin, end in _blocks(ranges, size))]


def opened(pieces: Sequence[bytes], ranges: Sequence[ByteRange], stored: Stored) -> list[bytes]:
    """The bytes of ranges of a blob, from those of `asked`.

    Raises:
        IntegrityError: not the blob that was stored then, or damaged (reason `checksum`).
    """
    front, *blocks = pieces
    head, check, digests = front[: _HEAD.size], front[_HEAD.size : _HEAD_BYTES], front[_HEAD_BYTES:]
    expected = _HEAD.pack(MAGIC, VERSION, stored.at, stored.size)
    if head != expected:
        raise IntegrityError("expected a hot blob of the time and size that it is stored with; got another one")
    if check != _DIGEST.pack(xxhash.xxh3_64_intdigest(head + digests)):
        raise IntegrityError("expected the digests of a hot blob; its medium gave others", reason="checksum")
    spans = _blocks(ranges, stored.size)
    if [len(piece) for piece in blocks] != [end - begin for begin, end in spans]:
        raise IntegrityError("expected whole blocks of a hot blob; its medium gave less", reason="checksum")
    for (begin, end), piece in zip(spans, blocks, strict=True):
        view = memoryview(piece)
        for start in range(begin, end, BLOCK_BYTES):
            (digest,) = _DIGEST.unpack_from(digests, start // BLOCK_BYTES * _DIGEST.size)
            if xxhash.xxh3_64_intdigest(view[start - begin : start - begin + BLOCK_BYTES]) != digest:
                raise IntegrityError("expected the bytes of a hot blob; its medium gave others", reason="checksum")
    return cut(ranges, spans, blocks)


def _front(size: int) -> int:
    return _HEAD_BYTES + -(-size // BLOCK_BYTES) * _DIGEST.size


def _blocks(ranges: Sequence[ByteRange], size: int) -> list[ByteRange]:
    """Whole blocks that cover the ranges, the last one as short as it is."""
    whole = [
        (begin - begin % BLOCK_BYTES, min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, size))
        for begin, end in ranges
        if begin < end
    ]
    return merged(whole, 0)
