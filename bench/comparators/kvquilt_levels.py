"""kvquilt's own containers: without a profile, and with one at each of its levels."""

from comparators.types import Context, Stored
from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.identity import Namespace, chunk_key, context_digest
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import KVChunk, KVLayout, Level, TokenIds, VariantKind


def identity(chunk: KVChunk, fingerprint: str) -> ChunkIdentity:
    """Of a chunk of the public namespace with nothing before it."""
    key = chunk_key(Namespace.public(), fingerprint, chunk.token_ids)
    return ChunkIdentity(fingerprint, key, VariantKind.BASE, context_digest(chunk.token_ids[:0]))


class WithoutProfile:
    """A level that needs nothing but the tensors; `lossless` keeps keys at their positions, `high` un-rotates them.

    Args:
        level: operating point.
        fingerprint: of the model.
    """

    method = "kvquilt, no profile"
    timed = True

    def __init__(self, level: Level, fingerprint: str) -> None:
        self.level = level.value
        self._level = level
        self._fingerprint = fingerprint

    def encode(self, context: Context) -> Stored:
        """See `Comparator.encode`."""
        chunk = context.rotated if self._level is Level.LOSSLESS else context.unrotated
        data = container.encode(chunk, self._level, identity(chunk, self._fingerprint))
        return Stored(8 * len(data), data)

    def decode(self, stored: Stored, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
        """See `Comparator.decode`."""
        return container.decode(stored.content, self._fingerprint).chunk()


class WithProfile:
    """A level of a profile: a container of all quality layers, of which the level's are kept.

    Args:
        coder: the profile, made ready.
        level: its name.
        quality_layers: how many the level takes.
    """

    method = "kvquilt"
    timed = True

    def __init__(self, coder: JointCoder, level: str, quality_layers: int) -> None:
        self.level = level
        self._coder = coder
        self._depth = quality_layers

    def encode(self, context: Context) -> Stored:
        """See `Comparator.encode`; encodes all quality layers."""
        chunk = context.unrotated
        named = identity(chunk, self._coder.profile.model_fingerprint)
        data = container.encode(chunk, Level.HIGH, named, self._coder)
        head = container.parse_head(data)
        ranges = head.byte_ranges(range(len(head.layout.layers)), self._depth)
        return Stored(8 * (head.head_bytes + sum(end - begin for begin, end in ranges)), data)

    def decode(self, stored: Stored, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
        """See `Comparator.decode`."""
        fingerprint = self._coder.profile.model_fingerprint
        return container.decode(stored.content, fingerprint, None, self._depth, lambda _: self._coder).chunk()
