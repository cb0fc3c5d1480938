"""What a put brings, made into the container that is stored."""

from dataclasses import dataclass

from kvquilt_cache_node import objects
from kvquilt_codec import catalog
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import check_token_ids
from kvquilt_proto.v1 import cache_node_pb2 as pb
from kvquilt_rpc import convert, spans
from kvquilt_rpc.metrics.codec import CodecMeter, Stopwatch


@dataclass(frozen=True, slots=True)
class PutLimits:
    """Bytes of one put, and of all that are being received at once."""

    object_bytes: int
    all_bytes: int


def checked(
    key: bytes,
    payload: bytes,
    header: pb.PutChunkHeader,
    meta: catalog.ObjectMeta,
    coder: JointCoder | None,
    meter: CodecMeter,
) -> bytes:
    """The container to store: the payload itself after checks, or the encoded tensors, of which `meter` is told."""
    if not header.HasField("tensors"):
        with spans.span("kvquilt.check", bytes=len(payload)):
            objects.check_container(key, payload, meta)
        return payload
    tensors = header.tensors
    identity = ChunkIdentity(
        meta.model_fingerprint, meta.chunk_key, meta.variant, meta.context_digest, catalog.to_attributes(meta)
    )
    rotated_from = tensors.rotated_from if tensors.HasField("rotated_from") else None
    layout = convert.layout_from_wire(tensors.layout)
    watch = Stopwatch()
    with spans.span("kvquilt.encode", tokens=meta.tokens), watch.running():
        data = objects.encode_tensors(
            key, payload, layout, check_token_ids(tensors.token_ids), rotated_from, identity, meta, coder
        )
    meter.coded("encode", watch.seconds, len(data))
    return data
