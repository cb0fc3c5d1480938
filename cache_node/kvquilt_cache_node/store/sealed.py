"""Blobs that are encrypted before they reach anything below: the outermost of all tiers, queues and media."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar, TypeVarTuple

from kvquilt_cache_node.store import sealed_format
from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.keyring import Keyring
from kvquilt_cache_node.store.ranges import cut
from kvquilt_cache_node.store.repair import Describe
from kvquilt_cache_node.store.sealed_format import (
    HEADER_BYTES,
    NamespaceKey,
    SealedHeader,
    open_pages,
    open_whole,
    plain_size,
    seal,
)
from kvquilt_cache_node.types import Blobs, ByteRange, Piece
from kvquilt_codec import container
from kvquilt_codec.catalog import Meta
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import IntegrityError, UnavailableError
from kvquilt_codec.identity import PUBLIC, check_digest

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

_IN_A_THREAD = 1 << 19
"""Bytes from which on sealing and opening leave the event loop alone. They hold the interpreter for a page at most."""
_KNOWN = 1 << 14
_TRIES = 16
_PAGES_AT_ONCE = 16
"""That are opened in one go of what comes in pieces: the first of them travel on while others come."""

Ranges = tuple[ByteRange, ...]


def namespace_of(data: bytes) -> str:
    """Whose a blob is, as its own header says; `""` for what is nobody's (a profile, a gate, audits).

    Raises:
        IntegrityError: it begins as a container and is none.
    """
    if not data.startswith(MAGIC):
        return ""
    return container.parse_head(data).header.attributes.get("namespace", PUBLIC)


def describing(keyring: Keyring, describe: Describe) -> Describe:
    """Descriptions of sealed blobs, for what works below `SealedBlobs`: repair, and tiers that check what they keep."""

    async def described(key: bytes, sealed: bytes) -> Meta:
        return await describe(key, await _opened(keyring, key, sealed))

    return described


class SealedBlobs:
    """See `Blobs`. Each blob is sealed under a key of its namespace; of a read only the pages that it needs are opened.

    Sealed sizes are `sealed_format.stored_size` of the plain ones; `sizes` gives the plain ones.

    Args:
        lower: where the sealed blobs are; closed with this.
        keyring: has the keys; closed with this.
    """

    def __init__(self, lower: Blobs, keyring: Keyring) -> None:
        self._lower = lower
        self._keyring = keyring
        self._known: OrderedDict[bytes, tuple[Ranges, SealedHeader]] = OrderedDict()
        self._open = Open(lower.name)

    @property
    def name(self) -> str:
        """See `Blobs.name`."""
        return self._lower.name

    @property
    def durable(self) -> bool:
        """See `Blobs.durable`."""
        return self._lower.durable

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`.

        Raises:
            IntegrityError: a damaged container, of which it is not known whose it is.
        """
        self._open.check()
        check_digest(key, "key")
        namespace_key = await self._keyring.sealing(await _computed(len(data), namespace_of, data))
        self._known.pop(key, None)
        await self._lower.write(key, await _computed(len(data), seal, namespace_key, key, data))

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        self._open.check()
        check_digest(key, "key")
        if ranges is None:
            (sealed,) = await self._lower.read(key)
            return [await _opened(self._keyring, key, sealed)]
        asked = tuple(ranges)
        header, runs, pieces = await self._pages(key, asked)
        if not runs:
            return [b""] * len(asked)
        namespace_key = await self._keyring.opening(header.slot, header.key_id)
        total = sum(len(piece) for piece in pieces)
        return await _computed(total, _cut_open, namespace_key, key, header, runs, pieces, asked)

    async def pieces(self, key: bytes) -> AsyncGenerator[Piece, None]:
        """See `Blobs.pieces`. Of what comes, each page is verified; that it is all, the last page shows."""
        self._open.check()
        check_digest(key, "key")
        waiting, page = bytearray(), 0
        header: SealedHeader | None = None
        async with aclosing(self._lower.pieces(key)) as pieces:
            async for piece in pieces:
                waiting += piece
                if header is None:
                    if len(waiting) < HEADER_BYTES:
                        continue
                    header = SealedHeader.parse(bytes(waiting[:HEADER_BYTES]))
                    namespace_key = await self._keyring.opening(header.slot, header.key_id)
                    del waiting[:HEADER_BYTES]
                while run := header.complete(page, len(waiting), _PAGES_AT_ONCE):
                    begin, end = header.sealed(run)
                    sealed = bytes(memoryview(waiting)[: end - begin])
                    del waiting[: end - begin]
                    page = run[1]
                    yield await _computed(len(sealed), open_pages, namespace_key, key, header, run, sealed)
        if header is None:
            SealedHeader.parse(bytes(waiting))
        elif page < header.page_count or waiting:
            raise IntegrityError(
                f"expected {header.page_count} pages of object {key.hex()[:16]}...; got {page} and {len(waiting)} B: "
                "truncated or damaged"
            )

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        self._open.check()
        self._known.pop(key, None)
        await self._lower.delete(key)

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`. What has a size that no sealed blob has is damaged."""
        self._open.check()
        return {key: plain_size(size) for key, size in (await self._lower.sizes()).items()}

    def stored_size(self, size: int) -> int:
        """See `Sealed.stored_size`."""
        return sealed_format.stored_size(size)

    async def destroy_key(self, namespace: str) -> bool:
        """See `Sealed.destroy_key`. Other nodes may open what they read for `keyring.FRESH_SECONDS` more."""
        self._open.check()
        return await self._keyring.destroy(namespace)

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._open.close()
        self._known.clear()
        await self._lower.close()
        await self._keyring.close()

    async def _pages(self, key: bytes, asked: Ranges) -> tuple[SealedHeader, list[ByteRange], list[bytes]]:
        """The header, the runs of pages that hold what is asked for, and their sealed bytes: all of one write."""
        header = self._remembered(key, asked)
        fresh = header is None
        for _ in range(_TRIES):
            if header is None:
                header, fresh = await self._header(key), True
            try:
                runs = header.pages(asked)
                first, *pieces = await self._lower.read(key, [(0, HEADER_BYTES), *map(header.sealed, runs)])
            except IntegrityError:
                current = await self._header(key)
                if fresh and current == header:
                    raise
                header, fresh = current, True
                continue
            if first == header.raw:
                self._remember(key, asked, header)
                return header, runs, pieces
            header, fresh = SealedHeader.parse(first), True
        raise UnavailableError(f"expected object {key.hex()[:16]}... to stay for a read; it is replaced all the time")

    async def _header(self, key: bytes) -> SealedHeader:
        (raw,) = await self._lower.read(key, [(0, HEADER_BYTES)])
        return SealedHeader.parse(raw)

    def _remembered(self, key: bytes, asked: Ranges) -> SealedHeader | None:
        """The header of a blob, if this read goes on with a use of it.

        What is asked of a blob first begins a use, and reads the header by itself: so the reads of each use are the
        same below, and a memory tier there can tell the second use from the rest of the first.
        """
        first, header = self._known.get(key, (None, None))
        return None if first == asked else header

    def _remember(self, key: bytes, asked: Ranges, header: SealedHeader) -> None:
        first, _ = self._known.get(key, (asked, None))
        self._known[key] = (first, header)
        self._known.move_to_end(key)
        if len(self._known) > _KNOWN:
            self._known.popitem(last=False)


def _cut_open(
    namespace_key: NamespaceKey,
    key: bytes,
    header: SealedHeader,
    runs: Sequence[ByteRange],
    pieces: Sequence[bytes],
    asked: Ranges,
) -> list[bytes]:
    opened = [open_pages(namespace_key, key, header, run, piece) for run, piece in zip(runs, pieces, strict=True)]
    return cut(asked, [header.plain(run) for run in runs], opened)


async def _opened(keyring: Keyring, key: bytes, sealed: bytes) -> bytes:
    header = SealedHeader.parse(bytes(sealed[:HEADER_BYTES]))
    namespace_key = await keyring.opening(header.slot, header.key_id)
    return await _computed(len(sealed), open_whole, namespace_key, key, header, sealed)


async def _computed(size: int, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
    return await asyncio.to_thread(work, *arguments) if size >= _IN_A_THREAD else work(*arguments)
