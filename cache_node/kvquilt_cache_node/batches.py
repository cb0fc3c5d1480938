"""Several objects in one answer: some are read at once, and each fails alone."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing

from kvquilt_cache_node.reading import Asked, Opening, Reader
from kvquilt_cache_node.types import Namespaces, ObjectReading, Store
from kvquilt_codec.errors import BadRequestError, IntegrityError, KvquiltError, NotFoundError
from kvquilt_codec.identity import check_digest
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import convert, status
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.framing import Packing
from kvquilt_rpc.node_batches import FRAMING, MAX_CHUNKS

log = logging.getLogger(__name__)

AT_ONCE = 4
"""Objects that one call reads at once: while one waits for the store, another is verified and sent."""
_READY = 4
"""Messages, of a frame each, that wait to be sent; then reading waits too."""


def header_of(opening: Opening) -> pb.GetChunkHeader:
    """What a read begins with, for the wire."""
    header = opening.head.header
    return pb.GetChunkHeader(
        payload_bytes=opening.nbytes,
        container_bytes=opening.head.total_bytes,
        layout=None if opening.layout is None else convert.layout_to_wire(opening.layout),
        token_count=header.tokens,
        rotated_from=header.rotated_from,
        tier=convert.tier_to_wire(opening.tier),
    )


class Batches:
    """Reads what `GetChunks` asks for.

    Args:
        store: that has it.
        reader: of that store.
        counters: told of every object that is sent, or found damaged.
    """

    def __init__(self, store: Store, reader: Reader, counters: Counters) -> None:
        self._store = store
        self._reader = reader
        self._counters = counters

    async def get(self, request: pb.GetChunksRequest, namespaces: Namespaces) -> AsyncGenerator[bytes, None]:
        """Messages of `GetChunksResponse` in their wire form, as they are ready.

        Raises:
            BadRequestError: no chunk, too many, or keys that cannot be.
            KvquiltError: the index cannot be asked.
        """
        if not 0 < len(request.chunks) <= MAX_CHUNKS:
            raise BadRequestError(f"expected 1 to {MAX_CHUNKS} chunks; got {len(request.chunks)}")
        keys = [check_digest(wanted.object_key, "object key") for wanted in request.chunks]
        async with self._store.readings(keys, namespaces) as sources:
            ready: asyncio.Queue[bytes | None] = asyncio.Queue(_READY)
            waiting = iter(range(len(keys)))
            workers = [
                asyncio.create_task(self._work(request, waiting, sources, ready))
                for _ in range(min(AT_ONCE, len(keys)))
            ]
            try:
                running = len(workers)
                while running:
                    message = await ready.get()
                    if message is None:
                        running -= 1
                    else:
                        yield message
            finally:
                for worker in workers:
                    worker.cancel()
                await asyncio.gather(*workers, return_exceptions=True)

    async def _work(
        self,
        request: pb.GetChunksRequest,
        waiting: Iterator[int],
        sources: Mapping[bytes, ObjectReading],
        ready: "asyncio.Queue[bytes | None]",
    ) -> None:
        for number in waiting:
            try:
                async with aclosing(self._one(request, number, sources)) as messages:
                    async for message in messages:
                        await ready.put(message)
            except KvquiltError as error:
                await ready.put(_failed(number, error))
            except Exception:
                log.exception("unforeseen error in a call")
                await ready.put(_failed(number, KvquiltError("unforeseen error; the server's log has it")))
        await ready.put(None)

    async def _one(
        self, request: pb.GetChunksRequest, number: int, sources: Mapping[bytes, ObjectReading]
    ) -> AsyncGenerator[bytes, None]:
        wanted = request.chunks[number]
        source = sources.get(wanted.object_key)
        if source is None:
            raise NotFoundError(f"expected object {wanted.object_key.hex()[:16]}... in the store; it is not there")
        asked = Asked(quality_layers=wanted.quality_layers or None)
        fingerprint = request.model_fingerprint
        packing: Packing | None = None
        try:
            async with aclosing(self._reader.read_from(source, wanted.object_key, fingerprint, asked)) as parts:
                async for part in parts:
                    if isinstance(part, Opening):
                        sent = part.nbytes
                        first = pb.GetChunksResponse(header=header_of(part)).SerializeToString()
                        packing = Packing(FRAMING, first, _place(number))
                    elif packing is not None:
                        for message in packing.take(part):
                            yield message
        except IntegrityError as error:
            if error.reason != "profile_damaged":
                self._counters.add("objects_damaged")
            raise
        if packing is not None:
            for message in packing.finish():
                yield message
            self._counters.add("gets")
            self._counters.add("bytes_sent", sent)


def _place(number: int) -> bytes:
    return pb.GetChunksResponse(chunk=number).SerializeToString()


def _failed(number: int, error: KvquiltError) -> bytes:
    failure = pb.ChunkFailure(status_code=status.code_of(error).value[0], message=str(error), reason=error.reason)
    return pb.GetChunksResponse(chunk=number, failure=failure).SerializeToString()
