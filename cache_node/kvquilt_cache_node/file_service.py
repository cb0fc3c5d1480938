"""Calls for what is nobody's: codec profiles, gates, and what audits of them found."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from kvquilt_cache_node import audits_wire
from kvquilt_cache_node.audits import Audits
from kvquilt_cache_node.gates import Gates
from kvquilt_cache_node.profiles import Profiles
from kvquilt_cache_node.types import Store
from kvquilt_codec.forms import check_hex_digest
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_proto.v1 import cache_node_pb2_grpc
from kvquilt_rpc import convert, frames, status
from kvquilt_rpc.callers import caller
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.status import Context


class FileCalls(cache_node_pb2_grpc.CacheNodeServiceServicer):
    """See `cache_node.proto`. All callers may read; what is stored counts for everybody, so only operators may store.

    Args:
        store: of the node.
        counters: of the node.
        max_bytes: of a file that is put.

    Attributes:
        profiles: of the node.
    """

    def __init__(self, store: Store, counters: Counters, max_bytes: int) -> None:
        self._counted = counters
        self._max_bytes = max_bytes
        self.profiles = Profiles(store, counters)
        self._gates = Gates(store, counters)
        self._audits = Audits(store, counters)

    @status.unary
    async def PutProfile(
        self, request_iterator: AsyncIterator[pb.PutProfileRequest], context: Context
    ) -> pb.PutProfileResponse:
        """Store a profile, for callers of all namespaces."""
        caller().check_operator()
        header = await frames.uploaded_header(request_iterator)
        digest = check_hex_digest(header.profile_digest, "profile digest")
        limit = min(self._max_bytes, profile_file.MAX_BYTES)
        payload = await frames.uploaded_payload(request_iterator, header.payload_bytes, limit)
        return pb.PutProfileResponse(stored=await self.profiles.put(digest, payload, header.model_fingerprint))

    @status.streaming
    async def GetProfile(
        self, request: pb.GetProfileRequest, context: Context
    ) -> AsyncGenerator[pb.GetProfileResponse, None]:
        """Serve a profile."""
        digest = check_hex_digest(request.profile_digest, "profile digest")
        data, profile = await self.profiles.get(digest, request.model_fingerprint)
        yield pb.GetProfileResponse(
            header=pb.GetProfileHeader(model_fingerprint=profile.model_fingerprint, payload_bytes=len(data))
        )
        for frame in frames.split([data]):
            yield pb.GetProfileResponse(frame=frame)
        self._counted.add("profiles_sent")

    @status.unary
    async def ListProfiles(self, request: pb.ListProfilesRequest, context: Context) -> pb.ListProfilesResponse:
        """List the profiles."""
        return pb.ListProfilesResponse(
            profiles=[convert.profile_info_to_wire(info) for info in await self.profiles.list()]
        )

    @status.unary
    async def PutGate(self, request_iterator: AsyncIterator[pb.PutGateRequest], context: Context) -> pb.PutGateResponse:
        """Store a gate, for callers of all namespaces: routers believe its bounds."""
        caller().check_operator()
        header = await frames.uploaded_header(request_iterator)
        digest = check_hex_digest(header.gate_digest, "gate digest")
        limit = min(self._max_bytes, gate_file.MAX_BYTES)
        payload = await frames.uploaded_payload(request_iterator, header.payload_bytes, limit)
        return pb.PutGateResponse(stored=await self._gates.put(digest, payload))

    @status.streaming
    async def GetGate(self, request: pb.GetGateRequest, context: Context) -> AsyncGenerator[pb.GetGateResponse, None]:
        """Serve a gate."""
        digest, data = await self._gates.get(request.profile_digest, request.model_fingerprint)
        yield pb.GetGateResponse(header=pb.GetGateHeader(gate_digest=digest, payload_bytes=len(data)))
        for frame in frames.split([data]):
            yield pb.GetGateResponse(frame=frame)
        self._counted.add("gates_sent")

    @status.unary
    async def MergeAudits(self, request: pb.MergeAuditsRequest, context: Context) -> pb.MergeAuditsResponse:
        """Take and give what is known of a gate's audits."""
        given = await asyncio.to_thread(audits_wire.given, request)
        return audits_wire.response(await self._audits.merge(given, may_write=caller().may_see_all))
