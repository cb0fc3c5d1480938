"""A container taken apart, so that any part of it can be made a lie and the checksums recomputed over it.

Written from docs/formats.md with `struct` and `json`, not with the encoder: a fault of the encoder's own helpers
would otherwise hide itself.
"""

import copy
import json
import struct
from dataclasses import dataclass, field
from typing import Any

import xxhash

PREFIX = struct.Struct("<8sHHIIQ")
ENTRY = struct.Struct("<IBBHHHI16s")
CHECKSUM_BYTES = 16


@dataclass
class Section:
    """One entry of the front index and its payload; `length` and `checksum` may be overridden by lies."""

    token_block: int
    quality_layer: int
    part: int
    codec_id: int
    layer: int
    reserved: int
    payload: bytes
    length: int | None = None
    checksum: bytes | None = None

    def entry(self) -> bytes:
        """The 32 bytes of the index."""
        length = len(self.payload) if self.length is None else self.length
        checksum = xxhash.xxh3_128_digest(self.payload) if self.checksum is None else self.checksum
        fields = (self.token_block, self.quality_layer, self.part, self.codec_id, self.layer, self.reserved)
        return ENTRY.pack(*fields, length, checksum)

    @property
    def claimed(self) -> int:
        """The length that the index gives."""
        return len(self.payload) if self.length is None else self.length


@dataclass
class Draft:
    """A container in parts; `build` computes every size and checksum that is not overridden."""

    header: dict[str, Any]
    sections: list[Section]
    magic: bytes = b"KVQUILT\x00"
    version: int = 1
    flags: int = 0
    header_bytes: int | None = None
    section_count: int | None = None
    payload_bytes: int | None = None
    raw_header: bytes | None = None
    tail: bytes = b""
    boundaries: dict[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, data: bytes) -> "Draft":
        """Take a valid container apart."""
        magic, version, flags, header_bytes, count, _ = PREFIX.unpack_from(data)
        header = json.loads(data[PREFIX.size : PREFIX.size + header_bytes])
        index = PREFIX.size + header_bytes
        offset = index + count * ENTRY.size + CHECKSUM_BYTES
        boundaries = {"prefix": PREFIX.size, "header": index, "index": offset - CHECKSUM_BYTES, "head": offset}
        sections = []
        for number in range(count):
            *fields, length, _ = ENTRY.unpack_from(data, index + number * ENTRY.size)
            sections.append(Section(*fields, payload=data[offset : offset + length]))
            offset += length
            boundaries[f"section-{number}"] = offset
        return cls(header, sections, magic, version, flags, boundaries=boundaries)

    def copy(self) -> "Draft":
        """A draft of its own."""
        return copy.deepcopy(self)

    def build(self) -> bytes:
        """The container, with checksums that match the lies."""
        encoded = self.raw_header
        if encoded is None:
            encoded = json.dumps(self.header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
        payload = sum(section.claimed for section in self.sections)
        prefix = PREFIX.pack(
            self.magic,
            self.version,
            self.flags,
            len(encoded) if self.header_bytes is None else self.header_bytes,
            len(self.sections) if self.section_count is None else self.section_count,
            payload if self.payload_bytes is None else self.payload_bytes,
        )
        body = prefix + encoded + b"".join(section.entry() for section in self.sections)
        payloads = b"".join(section.payload for section in self.sections)
        return body + xxhash.xxh3_128_digest(body) + payloads + self.tail


def zstd_frame(content: bytes, declared: int | None) -> bytes:
    """A zstd frame of raw blocks, byte for byte the same with every zstd; `declared` is the size it claims.

    RFC 8878: magic, frame header descriptor, window descriptor, 8-byte content size or none, raw blocks.
    """
    descriptor, size = (0b11000000, struct.pack("<Q", declared)) if declared is not None else (0, b"")
    header = struct.pack("<IBB", 0xFD2FB528, descriptor, 0x58) + size
    return header + _block(content, kind=0, size=len(content))


def zstd_bomb(size: int, declared: int | None) -> bytes:
    """A zstd frame whose run-length blocks unfold to `size` zero bytes, whatever it declares."""
    header = zstd_frame(b"", declared)[:-3]
    blocks = []
    while size > 0:
        run = min(size, 128 << 10)
        size -= run
        blocks.append(_block(b"\0", kind=1, size=run, last=size == 0))
    return header + b"".join(blocks)


def _block(content: bytes, *, kind: int, size: int, last: bool = True) -> bytes:
    return (size << 3 | kind << 1 | int(last)).to_bytes(3, "little") + content
