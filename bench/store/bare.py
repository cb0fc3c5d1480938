"""The least that a gRPC server can do to deliver an object: messages made beforehand, sent one after the other.

Run as `python -m store.bare PORT FILE...`; the file's name is the object's key in hex. Message type, frames and
options are a node's; nothing else is.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import grpc

from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc, common_pb2
from kvquilt_rpc.channel import MESSAGE_OPTIONS
from kvquilt_rpc.frames import FRAME_BYTES

HOST = "127.0.0.1"


def messages(data: bytes) -> Sequence[pb.GetChunkResponse]:
    """What a get of these bytes answers."""
    made = [pb.GetChunkResponse(header=pb.GetChunkHeader(payload_bytes=len(data), container_bytes=len(data)))]
    for begin in range(0, len(data), FRAME_BYTES):
        frame = common_pb2.Frame(offset=begin, data=data[begin : begin + FRAME_BYTES])
        made.append(pb.GetChunkResponse(frame=frame))
    return made


class BareService(cache_node_pb2_grpc.CacheNodeServiceServicer):
    """Answers gets, and takes puts to nowhere."""

    def __init__(self, objects: Mapping[bytes, Sequence[pb.GetChunkResponse]]) -> None:
        self._objects = objects

    async def GetChunk(self, request: pb.GetChunkRequest, context: Any) -> AsyncIterator[pb.GetChunkResponse]:  # noqa: ARG002, N802
        for message in self._objects[request.object_key]:
            yield message

    async def GetChunks(self, request: pb.GetChunksRequest, context: Any) -> AsyncIterator[pb.GetChunksResponse]:  # noqa: ARG002, N802
        for number, wanted in enumerate(request.chunks):
            header, *frames = self._objects[wanted.object_key]
            yield pb.GetChunksResponse(chunk=number, header=header.header, frame=frames[0].frame)
            for message in frames[1:]:
                yield pb.GetChunksResponse(chunk=number, frame=message.frame)

    async def PutChunk(self, requests: AsyncIterator[pb.PutChunkRequest], context: Any) -> pb.PutChunkResponse:  # noqa: ARG002, N802
        taken = 0
        async for request in requests:
            taken += len(request.frame.data)
        return pb.PutChunkResponse(stored=True, stored_bytes=taken)


async def serve(port: int, files: Sequence[Path]) -> None:
    """Until the process is ended."""
    server = grpc.aio.server(options=[*MESSAGE_OPTIONS, ("grpc.so_reuseport", 0)])
    objects = {bytes.fromhex(file.name): messages(file.read_bytes()) for file in files}
    cache_node_pb2_grpc.add_CacheNodeServiceServicer_to_server(BareService(objects), server)
    server.add_insecure_port(f"{HOST}:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
