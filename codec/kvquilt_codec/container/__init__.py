"""Container v1: a chunk's KV as self-describing, checksummed bytes (docs/formats.md is the specification)."""

from kvquilt_codec.container.arriving import ArrivingContainer
from kvquilt_codec.container.decoder import ContainerDecoder, DecodedChunk, decode, verify
from kvquilt_codec.container.description import Description, describe, description_bytes
from kvquilt_codec.container.encoder import ChunkIdentity, encode
from kvquilt_codec.container.head import ContainerHead, Header, head_bytes, parse_head
from kvquilt_codec.container.held import HeldContainer

__all__ = [
    "ArrivingContainer",
    "ChunkIdentity",
    "ContainerDecoder",
    "ContainerHead",
    "DecodedChunk",
    "Description",
    "Header",
    "HeldContainer",
    "decode",
    "describe",
    "description_bytes",
    "encode",
    "head_bytes",
    "parse_head",
    "verify",
]
