"""The ways that an object can be read and stored, by name."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import obstore
from obstore.store import LocalStore
from redis.asyncio import Redis

from kvquilt_codec.errors import KvquiltError
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc.channel import MESSAGE_OPTIONS
from kvquilt_rpc.frames import FRAME_BYTES
from kvquilt_rpc.node_batches import Wanted
from kvquilt_rpc.node_client import NodeClient
from store.objects import Made
from store.stage import TIMEOUT, Stage, Target
from tests.codec.samples import FINGERPRINT

Read = Callable[[Made], Awaitable[int]]
"""Reads an object; returns how many bytes came."""
Write = Callable[[Made], Awaitable[None]]
"""Stores an object that is not there."""
ReadAll = Callable[[Sequence[Made]], Awaitable[int]]
"""Reads several objects in one request; returns how many bytes came."""


@dataclass(frozen=True, slots=True)
class Way:
    """One of them.

    Attributes:
        name: of the table.
        read: see `Read`.
        pids: of the processes that work for it, beside this one.
        fill: stores what is read.
        write: what is measured as a put, if it is.
        drop: undoes a put, not measured.
        read_all: see `ReadAll`, where it can be done.
    """

    name: str
    read: Read
    pids: Sequence[int]
    fill: Write
    write: Write | None = None
    drop: Write | None = None
    read_all: ReadAll | None = None


REDIS_FRAMES, REDIS_VALUE, BARE = "redis client, frames", "redis client, one value", "bare gRPC stream"
NODE_REDIS, NODE_MEMORY = "node, redis", "node, memory tier"
NODE_REDIS_SHARED, NODE_MEMORY_SHARED = "node, redis, index in redis", "node, memory tier, index in redis"
FILE, OBSTORE, NODE_FILE = "plain file", "obstore, file", "node, file"


def redis_ways(client: "Redis", pid: int) -> list[Way]:
    """What a program does that keeps the same bytes in Redis itself: in the same frames, or as one value."""

    async def get_frames(made: Made) -> int:
        total = 0
        for number in range(-(-len(made.data) // FRAME_BYTES)):
            total += len(await client.get(f"plain:{made.key.hex()}:{number}"))
        return total

    async def get_all_frames(several: Sequence[Made]) -> int:
        async with client.pipeline(transaction=False) as pipeline:
            for made in several:
                for number in range(-(-len(made.data) // FRAME_BYTES)):
                    pipeline.get(f"plain:{made.key.hex()}:{number}")
            return sum(map(len, await pipeline.execute()))

    async def get_all_values(several: Sequence[Made]) -> int:
        return sum(map(len, await client.mget([f"whole:{made.key.hex()}" for made in several])))

    async def set_frames(made: Made) -> None:
        for number, frame in enumerate(made.frames):
            await client.set(f"plain:{made.key.hex()}:{number}", frame)

    async def drop_frames(made: Made) -> None:
        await client.unlink(*(f"plain:{made.key.hex()}:{number}" for number in range(len(made.frames))))

    async def get_value(made: Made) -> int:
        return len(await client.get(f"whole:{made.key.hex()}"))

    async def set_value(made: Made) -> None:
        await client.set(f"whole:{made.key.hex()}", made.data)

    async def drop_value(made: Made) -> None:
        await client.unlink(f"whole:{made.key.hex()}")

    return [
        Way(REDIS_FRAMES, get_frames, [pid], set_frames, set_frames, drop_frames, get_all_frames),
        Way(REDIS_VALUE, get_value, [pid], set_value, set_value, drop_value, get_all_values),
    ]


def bare_way(stub: Any, target: Target) -> Way:
    """The bare stream, and a client that counts what comes."""

    async def get(made: Made) -> int:
        total = 0
        async for answer in stub.GetChunk(pb.GetChunkRequest(object_key=made.key), timeout=TIMEOUT):
            total += len(answer.frame.data)
        return total

    async def get_all(several: Sequence[Made]) -> int:
        total = 0
        wanted = pb.GetChunksRequest(chunks=[pb.WantedChunk(object_key=made.key) for made in several])
        async for answer in stub.GetChunks(wanted, timeout=TIMEOUT):
            total += len(answer.frame.data)
        return total

    async def nothing(_: Made) -> None:
        return

    return Way(BARE, get, target.pids, nothing, read_all=get_all)


def node_way(name: str, client: NodeClient, target: Target, *, warm: int = 0, puts: bool = False) -> Way:
    """A node, called as routers do; `warm` reads bring an object into its memory."""

    async def get(made: Made) -> int:
        pieces = client.get(made.key, FINGERPRINT, deadline=TIMEOUT)
        return sum([len(piece) async for piece in pieces if isinstance(piece, bytes)])

    async def get_all(several: Sequence[Made]) -> int:
        pieces = client.batches.get([Wanted(made.key) for made in several], FINGERPRINT, deadline=TIMEOUT)
        total = 0
        async for _, piece in pieces:
            if isinstance(piece, KvquiltError):
                raise piece
            total += len(piece) if isinstance(piece, bytes) else 0
        return total

    async def put(made: Made) -> None:
        await client.put(made.key, made.data, made.meta, deadline=TIMEOUT)

    async def fill(made: Made) -> None:
        await put(made)
        for _ in range(warm):
            await get(made)

    async def drop(made: Made) -> None:
        await client.forget(keys=[made.key], deadline=TIMEOUT)

    return Way(name, get, target.pids, fill, put if puts else None, drop if puts else None, get_all)


def file_ways(folder: Path) -> list[Way]:
    """The same bytes in files, read by a thread and by obstore."""
    folder.mkdir()
    local = LocalStore(folder)

    async def get(made: Made) -> int:
        return len(await asyncio.to_thread((folder / made.key.hex()).read_bytes))

    async def get_obstore(made: Made) -> int:
        found = await obstore.get_async(local, made.key.hex())
        return len(await found.bytes_async())

    async def put(made: Made) -> None:
        await asyncio.to_thread((folder / made.key.hex()).write_bytes, made.data)

    async def drop(made: Made) -> None:
        await asyncio.to_thread((folder / made.key.hex()).unlink)

    return [Way(FILE, get, [], put, put, drop), Way(OBSTORE, get_obstore, [], put)]


@asynccontextmanager
async def opened(stage: Stage, objects: Mapping[int, Sequence[Made]]) -> AsyncIterator[list[Way]]:
    """All ways, with all objects stored, and each read once to see that the bytes come."""
    everything = [*itertools.chain(*objects.values())]
    bare = stage.bare(everything)
    nodes = {
        NODE_REDIS: (stage.node("node.memory_bytes=0", on_redis=True), 0, True),
        NODE_MEMORY: (stage.node(on_redis=True), 2, False),
        NODE_REDIS_SHARED: (
            stage.node("node.memory_bytes=0", "node.index=redis", "node.eviction=gdsf", on_redis=True),
            0,
            True,
        ),
        NODE_MEMORY_SHARED: (stage.node("node.index=redis", "node.eviction=gdsf", on_redis=True), 2, False),
        NODE_FILE: (stage.node(), 0, True),
    }
    redis = Redis(host="127.0.0.1", port=stage.valkey.port, protocol=2)
    clients = {name: NodeClient(target.address) for name, (target, _, _) in nodes.items()}
    async with grpc.aio.insecure_channel(bare.address, options=MESSAGE_OPTIONS) as channel:
        ways = [
            *redis_ways(redis, stage.valkey.process.pid),
            bare_way(cache_node_pb2_grpc.CacheNodeServiceStub(channel), bare),
            *file_ways(stage.folder / "files"),
            *(node_way(name, clients[name], of, warm=warm, puts=puts) for name, (of, warm, puts) in nodes.items()),
        ]
        try:
            for way in ways:
                for made in everything:
                    await way.fill(made)
                    if (came := await way.read(made)) != len(made.data):
                        raise RuntimeError(f"expected {len(made.data)} bytes through {way.name}; got {came}")
            yield ways
        finally:
            await redis.aclose()
            for client in clients.values():
                await client.close()
