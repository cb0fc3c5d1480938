"""Blobs in Redis or Valkey: frames, and a manifest that is put in place last.

docs/decisions/0014-redis-blobs.md goes through every point at which a writer or a server can die.
"""

import contextlib
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from itertools import chain, islice

import xxhash

from kvquilt_cache_node.store.ranges import check_ranges, cut, merged
from kvquilt_cache_node.store.redis_client import RedisClient
from kvquilt_cache_node.store.redis_frames import in_order, parts_of
from kvquilt_cache_node.store.redis_records import (
    DROP_ORPHAN,
    FRAME_BYTES,
    GENERATION_BYTES,
    MANIFEST_BYTES,
    MAX_FRAMES,
    SWAP,
    Manifest,
    Names,
)
from kvquilt_cache_node.types import ByteRange, Piece
from kvquilt_codec.errors import CapacityError, IntegrityError, KvquiltError, NotFoundError, UnavailableError
from kvquilt_codec.identity import check_digest

log = logging.getLogger(__name__)

_EXPIRY_SECONDS = 600
"""Frames without a manifest vanish after this; a writer that takes longer fails."""

_GAP = 16 << 10
"""Ranges this near to each other are read as one: the bytes between cost less than a round trip."""

_TRIES = 20
"""Of a call that finds the blob replaced by another writer meanwhile; a second one nearly always does."""

_PAGE = 512
_KNOWN = 4096


class _FrameMissingError(Exception):
    """A frame that a manifest names is not there."""


class RedisBlobs:
    """See `Blobs`. Any number of nodes may share one prefix.

    Args:
        client: connected; closed with the blobs.
        prefix: what the names of all keys begin with.
        clock: seconds since the epoch.

    Raises:
        BadRequestError: a prefix that cannot be.
    """

    name = "redis"
    durable = True

    def __init__(self, client: RedisClient, prefix: str, clock: Callable[[], float] = time.time) -> None:
        self._client = client
        self._names = Names(prefix)
        self._clock = clock
        # A generation is written once, so a manifest that is out of date leads to frames that are gone, never to
        # other bytes: what is remembered saves a round trip and cannot be wrong.
        self._known: OrderedDict[bytes, Manifest] = OrderedDict()

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`."""
        check_digest(key, "key")
        data = bytes(data)
        if len(data) > MAX_FRAMES * FRAME_BYTES:
            raise CapacityError(f"expected at most {MAX_FRAMES} MiB in one blob; got {len(data)} bytes")
        generation = secrets.token_bytes(GENERATION_BYTES)
        written = int(self._clock() * 1000)
        manifest = Manifest(len(data), FRAME_BYTES, generation, xxhash.xxh3_64_intdigest(data), written)
        try:
            async for _ in in_order(range(manifest.frames), partial(self._put_frame, key, generation, data)):
                pass
        except KvquiltError:
            with contextlib.suppress(KvquiltError):  # they expire anyway
                for name in self._names.frames(key, manifest):
                    await self._client.call("UNLINK", name)
            raise
        await self._swap(key, manifest)
        self._remember(key, manifest)

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        check_digest(key, "key")
        manifest = self._known.get(key)
        if manifest is not None and not _would_show(manifest, ranges):
            manifest = None
        for _ in range(_TRIES):
            if manifest is None:
                manifest = self._remember(key, await self._manifest(key))
            try:
                return await self._read(key, manifest, ranges)
            except _FrameMissingError:
                manifest = await self._replacement(key, manifest)
        raise UnavailableError(f"expected object {key.hex()[:16]}... to stay for a read; it is replaced all the time")

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. The next frame travels while one is used."""
        check_digest(key, "key")
        manifest = self._known.get(key)
        if manifest is None or not manifest.frames:
            manifest = self._remember(key, await self._manifest(key))
        for _ in range(_TRIES):
            began = False
            try:
                frames = parts_of((0, manifest.size), manifest.frame_bytes)
                async with aclosing(in_order(frames, partial(self._get_part, key, manifest))) as found:
                    async for piece in found:
                        began = True
                        yield piece
                return
            except _FrameMissingError:
                manifest = await self._replacement(key, manifest)
                if began:
                    break
        raise UnavailableError(f"expected object {key.hex()[:16]}... to stay for a read; it was replaced")

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        check_digest(key, "key")
        self._known.pop(key, None)
        await self._swap(key, None)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`. Two passes over the server's keys.

        Deletes frames that no manifest names and no expiry deletes. What stands under a blob's name but is no manifest
        is listed with a size of -1.
        """
        found: dict[bytes, Manifest | None] = {}
        async for page in self._client.scan(self._names.all_manifests, _PAGE):
            names = {name: parsed[0] for name in page if (parsed := self._names.parse(name)) is not None}
            heads = await self._client.each([("GETRANGE", name, 0, MANIFEST_BYTES) for name in names])
            for key, head in zip(names.values(), heads, strict=True):
                if head != b"":  # not deleted meanwhile
                    found[key] = _decoded(head)
        await self._drop_orphans(self._names.all_frames, found)
        order = sorted(found, key=lambda key: 0 if (manifest := found[key]) is None else manifest.written)
        return {key: -1 if (manifest := found[key]) is None else manifest.size for key in order}

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._known.clear()
        await self._client.close()

    # Manifests

    async def _head(self, key: bytes) -> bytes:
        """What stands where the manifest should be: as much as tells a manifest from anything longer."""
        try:
            head = await self._client.call("GETRANGE", self._names.manifest(key), 0, MANIFEST_BYTES)
        except IntegrityError:
            return b"of another type"
        return head if isinstance(head, bytes) else b""

    async def _manifest(self, key: bytes) -> Manifest:
        head = await self._head(key)
        if not head:
            raise NotFoundError(f"expected object {key.hex()[:16]}... in Redis; it is not there")
        return Manifest.decode(head)

    async def _replacement(self, key: bytes, manifest: Manifest) -> Manifest:
        """The manifest now, where frames of this one are gone."""
        self._known.pop(key, None)
        current = await self._manifest(key)
        if current.generation == manifest.generation:
            raise IntegrityError(
                f"expected {manifest.frames} frames of object {key.hex()[:16]}... in Redis; one is gone: the "
                "server must not evict (maxmemory-policy noeviction)"
            ) from None
        return self._remember(key, current)

    def _remember(self, key: bytes, manifest: Manifest) -> Manifest:
        self._known[key] = manifest
        self._known.move_to_end(key)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)
        return manifest

    async def _swap(self, key: bytes, manifest: Manifest | None) -> None:
        """Put a manifest, or none, in place of the one that is there, and delete the frames of that one."""
        new = b"" if manifest is None else manifest.encode()
        fresh = self._names.frames(key, manifest)
        # A guess saves a round trip: what is written is seldom there before. If it is wrong, the script tells.
        there = await self._head(key) if manifest is None else b""
        for _ in range(_TRIES):
            if there == new:
                return  # a delete of nothing; or a swap whose answer was lost, tried again by the client
            try:
                old = Manifest.decode(there) if there else None
            except IntegrityError:
                old = None
            names = [self._names.manifest(key), *fresh, *self._names.frames(key, old)]
            outcome, head = await self._client.call(
                "EVAL", SWAP, len(names), *names, MANIFEST_BYTES, there, new, len(fresh)
            )
            if outcome == 1:
                if there and old is None:  # it was damaged, and did not tell its frames
                    await self._drop_orphans(self._names.frames_of(key), {key: manifest})
                return
            if outcome == -1:
                raise UnavailableError(
                    "expected the frames of a write in Redis until its end; one is gone: more than "
                    f"{_EXPIRY_SECONDS} s have passed, or the server evicts (maxmemory-policy noeviction)"
                )
            there = head
        raise UnavailableError(f"expected to replace object {key.hex()[:16]}... in Redis; others do again and again")

    async def _drop_orphans(self, pattern: str, blobs: Mapping[bytes, Manifest | None]) -> None:
        """Delete frames that no manifest names and no expiry deletes."""
        dropped = 0
        async for page in self._client.scan(pattern, _PAGE):
            for name in page:
                key, generation = self._names.parse(name) or (b"", None)
                if generation is None or ((known := blobs.get(key)) is not None and known.generation == generation):
                    continue
                names = (self._names.manifest(key), name)
                dropped += await self._client.call("EVAL", DROP_ORPHAN, 2, *names, MANIFEST_BYTES, generation)
        if dropped:
            log.warning("deleted %d frames in Redis that belonged to no blob", dropped)

    # Frames

    async def _put_frame(self, key: bytes, generation: bytes, data: bytes, number: int) -> None:
        piece = data[number * FRAME_BYTES : (number + 1) * FRAME_BYTES]
        await self._client.call("SET", self._names.frame(key, generation, number), piece, "EX", _EXPIRY_SECONDS)

    async def _read(self, key: bytes, manifest: Manifest, ranges: Sequence[ByteRange] | None) -> list[bytes]:
        chosen = [(0, manifest.size)] if ranges is None else ranges
        check_ranges(chosen, manifest.size)
        spans = merged(chosen, _GAP)
        parts = [parts_of(span, manifest.frame_bytes) for span in spans]
        pieces = iter([piece async for piece in in_order(chain(*parts), partial(self._get_part, key, manifest))])
        read = [b"".join(islice(pieces, len(own))) for own in parts]
        if ranges is None and xxhash.xxh3_64_intdigest(b"".join(read)) != manifest.digest:
            raise IntegrityError(
                f"expected the bytes that were written as object {key.hex()[:16]}...; Redis gave others",
                reason="checksum",
            )
        return cut(chosen, spans, read)

    async def _get_part(self, key: bytes, manifest: Manifest, part: tuple[int, int, int]) -> Piece:
        number, begin, end = part
        name = self._names.frame(key, manifest.generation, number)
        length = min(manifest.frame_bytes, manifest.size - number * manifest.frame_bytes)
        if (begin, end) == (0, length):
            piece = await self._client.value(length, "GET", name)
        else:
            piece = await self._client.value(end - begin, "GETRANGE", name, begin, end - 1)
        if not piece:
            raise _FrameMissingError
        if not isinstance(piece, bytes | bytearray) or len(piece) != end - begin:
            raise IntegrityError(f"expected {end - begin} bytes of object {key.hex()[:16]}... in Redis; got other ones")
        return piece


def _would_show(manifest: Manifest, ranges: Sequence[ByteRange] | None) -> bool:
    """Whether reading these ranges would show that a manifest is out of date: they need frames, all of which it has."""
    chosen = [(0, manifest.size)] if ranges is None else ranges
    return any(begin < end for begin, end in chosen) and all(
        0 <= begin <= end <= manifest.size for begin, end in chosen
    )


def _decoded(head: object) -> Manifest | None:
    """The manifest that a name holds; `None` where it holds something else."""
    try:
        return Manifest.decode(head) if isinstance(head, bytes) else None
    except IntegrityError:
        return None
