"""What a profile's levels take and do, measured on containers as they are stored."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.identity import Namespace, chunk_key, context_digest
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.joint.coder import joined
from kvquilt_codec.profile import LevelCard, Profile, file
from kvquilt_codec.profile.types import Matrix
from kvquilt_codec.types import KVChunk, Level, VariantKind
from kvquilt_router.calibration.progress import Progress
from kvquilt_router.calibration.quality import Quality

LEVELS = ("high", "medium", "low")


def with_cards(profile: Profile, chunks: Sequence[KVChunk], quality: Quality, progress: Progress) -> Profile:
    """The profile with a card for each of its levels, the coarsest first.

    Args:
        profile: is written and loaded first: what is measured is what a reader of its file has.
        chunks: un-rotated KV of the contexts of `quality`, in its order.
        quality: on texts that the profile was not learned from.
        progress: told of every level.
    """
    data = file.dump(profile)
    coder = JointCoder(file.load(data), file.digest(data))
    stored = [_encode(chunk, coder) for chunk in chunks]
    elements = sum(chunk.tokens * chunk.layout.elements_per_token for chunk in chunks)
    depths = len(profile.quality)
    cards = []
    for depth in range(1, depths + 1):
        progress("cards", depth - 1, depths)
        size = sum(_size(data, depth) for data in stored)
        measured = quality.measure(_decode(data, depth, coder) for data in stored)
        level = LEVELS[depths - depth]
        cards.append(LevelCard(level, depth, 8 * size / elements, measured.kl, measured.top1_agreement))
    progress("cards", depths, depths)
    return replace(profile, cards=tuple(cards))


def _encode(chunk: KVChunk, coder: JointCoder) -> bytes:
    fingerprint = coder.profile.model_fingerprint
    key = chunk_key(Namespace.public(), fingerprint, chunk.token_ids)
    nothing = context_digest(chunk.token_ids[:0])
    return container.encode(chunk, Level.HIGH, ChunkIdentity(fingerprint, key, VariantKind.BASE, nothing), coder)


def _size(data: bytes, depth: int) -> int:
    """Bytes of the head and of the sections that so many quality layers take."""
    head = container.parse_head(data)
    ranges = head.byte_ranges(range(len(head.layout.layers)), depth)
    return head.head_bytes + sum(end - begin for begin, end in ranges)


def _decode(data: bytes, depth: int, coder: JointCoder) -> list[Matrix]:
    decoded = container.decode(data, coder.profile.model_fingerprint, None, depth, lambda _: coder)
    return list(_joined(decoded.chunk()))


def _joined(chunk: KVChunk) -> Iterator[Matrix]:
    for keys, values in zip(chunk.keys, chunk.values, strict=True):
        yield joined(keys, values)
