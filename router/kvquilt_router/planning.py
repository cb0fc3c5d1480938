"""From a prompt's tokens to the chunks that the cache may hold. Pure computation."""

from collections.abc import Iterator

from kvquilt_codec.cutting import cut
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import Namespace, chunk_key
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TokenIds
from kvquilt_router.types import ChunkRef, Prompt

PREFIX_POINT = LOSSLESS_POINT
"""The shared prefix holds the attention sinks of every prompt: its errors would spread to all of them."""


class Planner:
    """Names the chunks of prompts and documents for one model in one namespace."""

    def __init__(self, namespace: Namespace, model_fingerprint: str, chunk_tokens: int) -> None:
        self.namespace = namespace
        self.fingerprint = model_fingerprint
        self._chunk_tokens = chunk_tokens

    def prompt(self, prompt: Prompt, point: OperatingPoint) -> list[ChunkRef]:
        """The chunks of a prompt's context, in order; of a plain prompt all of it as one run.

        Raises:
            BadRequestError: an empty document or question.
        """
        if len(prompt.question) == 0:
            raise BadRequestError("expected a question of at least one token; got none")
        refs = list(self.prefix(prompt.prefix, 0 in prompt.public))
        begin = len(prompt.prefix)
        if prompt.plain:
            return [*refs, *(self.chunk(document, point, 1, begin) for document in prompt.documents if len(document))]
        for segment, document in enumerate(prompt.documents, start=1):
            refs += self.document(document, point, segment, begin, segment in prompt.public)
            begin += len(document)
        return refs

    def prefix(self, prefix: TokenIds, public: bool = False) -> Iterator[ChunkRef]:
        """The chunks of a shared prefix, which is cut only where it is longer than a chunk may be."""
        for begin in range(0, len(prefix), MAX_CHUNK_TOKENS):
            yield self.chunk(prefix[begin : begin + MAX_CHUNK_TOKENS], PREFIX_POINT, 0, begin, public)

    def document(
        self, document: TokenIds, point: OperatingPoint, segment: int = 1, begin: int = 0, public: bool = False
    ) -> Iterator[ChunkRef]:
        """The chunks of a document that starts at `begin`, cut where its content says, so that edits move few cuts.

        Raises:
            BadRequestError: the document is empty.
        """
        if len(document) == 0:
            raise BadRequestError(f"expected documents of at least one token; document {segment} has none")
        first = 0
        for end in cut(document, self._chunk_tokens):
            yield self.chunk(document[first:end], point, segment, begin + first, public)
            first = end

    def chunk(
        self, tokens: TokenIds, point: OperatingPoint, segment: int, begin: int, public: bool = False
    ) -> ChunkRef:
        """One run of tokens as a chunk."""
        key = chunk_key(self.namespace_of(public), self.fingerprint, tokens)
        return ChunkRef(segment, begin, tokens, key, point, public)

    def namespace_of(self, public: bool) -> Namespace:
        """The namespace of a chunk: the public one, or that of this planner."""
        return Namespace.public() if public else self.namespace
