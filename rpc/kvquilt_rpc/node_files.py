"""Calls of a cache node about the files it keeps beside objects: codec profiles, gates, what audits found."""

import asyncio
from collections.abc import AsyncIterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvquilt_codec.catalog import ProfileInfo
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.gate import audits_file
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.gate.audits import GateAudits
from kvquilt_codec.profile import file as profile_file
from kvquilt_proto.v1 import cache_node_pb2
from kvquilt_rpc import convert, frames
from kvquilt_rpc.frames import Header
from kvquilt_rpc.status import translated, well_formed

if TYPE_CHECKING:
    from kvquilt_proto.v1.cache_node_pb2_grpc import CacheNodeServiceAsyncStub


@dataclass(frozen=True, slots=True)
class AuditsHeard:
    """What nodes know of a gate's audits.

    Attributes:
        state: all of it.
        nodes: how many were asked.
        unstored: of each that does not keep all of it, why; one that did not answer among them.
        damaged: files of audits that they found damaged or lost.
    """

    state: GateAudits
    nodes: int
    unstored: tuple[str, ...]
    damaged: int


class NodeProfiles:
    """The codec profiles of a node."""

    def __init__(self, stub: "CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def put(self, data: bytes, digest: str, model_fingerprint: str, *, deadline: float) -> bool:
        """Store a profile; `False` if the node had it already."""
        header = cache_node_pb2.PutProfileHeader(
            profile_digest=digest, model_fingerprint=model_fingerprint, payload_bytes=len(data)
        )

        def requests() -> Iterator[cache_node_pb2.PutProfileRequest]:
            yield cache_node_pb2.PutProfileRequest(header=header)
            for frame in frames.split([data]):
                yield cache_node_pb2.PutProfileRequest(frame=frame)

        async with translated():
            response = well_formed(await self._stub.PutProfile(requests(), timeout=deadline))
        return response.stored

    async def get(self, digest: str, model_fingerprint: str = "", *, deadline: float) -> bytes:
        """A profile's file, of this digest and no other.

        Raises:
            NotFoundError: the node has it not.
            FingerprintMismatchError: it is of another model than the given one.
            IntegrityError: other bytes came.
        """
        request = cache_node_pb2.GetProfileRequest(profile_digest=digest, model_fingerprint=model_fingerprint)
        async with translated():
            _, data = await _downloaded(self._stub.GetProfile(request, timeout=deadline), profile_file.MAX_BYTES)
        if await asyncio.to_thread(profile_file.digest, data) != digest:
            raise IntegrityError("expected the profile of this digest; other bytes came", reason="checksum")
        return data

    async def list(self, *, deadline: float) -> list[ProfileInfo]:
        """The profiles that the node has."""
        async with translated():
            response = well_formed(
                await self._stub.ListProfiles(cache_node_pb2.ListProfilesRequest(), timeout=deadline)
            )
        return [convert.profile_info_from_wire(info) for info in response.profiles]


class NodeGates:
    """The gates of a node."""

    def __init__(self, stub: "CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def put(self, data: bytes, *, deadline: float) -> bool:
        """Store a gate's file; `False` if the node had it already."""
        header = cache_node_pb2.PutGateHeader(gate_digest=gate_file.digest(data), payload_bytes=len(data))

        def requests() -> Iterator[cache_node_pb2.PutGateRequest]:
            yield cache_node_pb2.PutGateRequest(header=header)
            for frame in frames.split([data]):
                yield cache_node_pb2.PutGateRequest(frame=frame)

        async with translated():
            response = well_formed(await self._stub.PutGate(requests(), timeout=deadline))
        return response.stored

    async def get(self, profile_digest: str, model_fingerprint: str, *, deadline: float) -> bytes:
        """The file of the gate of this model and this codec profile that the node got last.

        Raises:
            NotFoundError: the node has none.
            FingerprintMismatchError: it sent one of another model or profile.
            IntegrityError: other bytes came than it declared, or no gate.
        """
        request = cache_node_pb2.GetGateRequest(profile_digest=profile_digest, model_fingerprint=model_fingerprint)
        async with translated():
            header, data = await _downloaded(self._stub.GetGate(request, timeout=deadline), gate_file.MAX_BYTES)
        gate = await asyncio.to_thread(gate_file.load, data, header.gate_digest)
        gate_file.check(gate, model_fingerprint, profile_digest)
        return data


class NodeAudits:
    """What audits found of gates, as a node keeps it."""

    def __init__(self, stub: "CacheNodeServiceAsyncStub") -> None:
        self._stub = stub

    async def merge(self, known: GateAudits, *, deadline: float) -> AuditsHeard:
        """Give the node what is known of a gate, and get what it knows.

        Raises:
            FingerprintMismatchError: it sent audits of another gate.
            IntegrityError: other bytes came than it declared, or no audits.
        """
        names = (known.gate, known.profile_digest, known.model_fingerprint)
        data = await asyncio.to_thread(audits_file.dump, known) if known.points else b""
        request = cache_node_pb2.MergeAuditsRequest(
            gate_digest=names[0],
            profile_digest=names[1],
            model_fingerprint=names[2],
            audits=data,
            audits_digest=audits_file.digest(data),
        )
        async with translated():
            response = well_formed(await self._stub.MergeAudits(request, timeout=deadline))
        if response.audits:
            heard = await asyncio.to_thread(audits_file.load, response.audits, response.audits_digest)
            audits_file.check(heard, known.gate, known.model_fingerprint, known.profile_digest)
        else:
            heard = known.with_points({})
        unstored = (response.unstored_reason,) if response.unstored_reason else ()
        return AuditsHeard(heard, 1, unstored, response.damaged)


async def _downloaded(answers: AsyncIterable[frames.Part[Header]], limit: int) -> tuple[Header, bytes]:
    """A file that comes as its header and frames."""
    header: Header | None = None
    reader = frames.FrameReader(0, limit)
    data = bytearray()
    async for answer in answers:
        response = well_formed(answer)
        if header is not None:
            data += reader.take(response.frame)
        elif response.HasField("header"):
            header = response.header
            if header.payload_bytes > limit:
                raise IntegrityError(f"expected a file of at most {limit} bytes; the node sends {header.payload_bytes}")
            reader = frames.FrameReader(header.payload_bytes, limit)
        else:
            raise IntegrityError("expected a header first; the node sent a frame")
    if header is None:
        raise IntegrityError("expected a header; the node's stream was empty")
    reader.finish()
    return header, bytes(data)
