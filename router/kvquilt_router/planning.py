"""From a prompt's tokens to the chunks that the cache may hold. Pure computation."""

from collections.abc import Iterator

import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import Namespace, chunk_key, context_digest, object_key, variant_key
from kvquilt_codec.levels import LOSSLESS_POINT, OperatingPoint
from kvquilt_codec.types import MAX_CHUNK_TOKENS, TokenIds, VariantKind
from kvquilt_router.types import ChunkRef, Prompt

PREFIX_POINT = LOSSLESS_POINT
"""The shared prefix holds the attention sinks of every prompt: its errors would spread to all of them."""


class Planner:
    """Names the chunks of prompts and documents for one model in one namespace."""

    def __init__(self, namespace: Namespace, model_fingerprint: str, chunk_tokens: int) -> None:
        self._namespace = namespace
        self._fingerprint = model_fingerprint
        self._chunk_tokens = chunk_tokens

    def prompt(self, prompt: Prompt, point: OperatingPoint) -> list[ChunkRef]:
        """The chunks of a prompt's context, in order.

        Raises:
            BadRequestError: an empty document or question.
        """
        if len(prompt.question) == 0:
            raise BadRequestError("expected a question of at least one token; got none")
        refs = list(self.prefix(prompt.prefix))
        begin = len(prompt.prefix)
        for segment, document in enumerate(prompt.documents, start=1):
            refs += self.document(prompt.prefix, document, point, segment, begin)
            begin += len(document)
        return refs

    def prefix(self, prefix: TokenIds) -> Iterator[ChunkRef]:
        """The chunks of a shared prefix: exact variants, cut only where it is longer than a chunk may be."""
        for begin in range(0, len(prefix), MAX_CHUNK_TOKENS):
            piece = prefix[begin : begin + MAX_CHUNK_TOKENS]
            yield self._ref(0, begin, piece, VariantKind.EXACT, prefix[:begin], True, PREFIX_POINT)

    def document(
        self, prefix: TokenIds, document: TokenIds, point: OperatingPoint, segment: int = 1, begin: int = 0
    ) -> Iterator[ChunkRef]:
        """The chunks of a document that starts at `begin`: base variants, of about equal length.

        Raises:
            BadRequestError: the document is empty.
        """
        if len(document) == 0:
            raise BadRequestError(f"expected documents of at least one token; document {segment} has none")
        pieces = -(-len(document) // self._chunk_tokens)
        for piece in np.array_split(document, pieces):
            exact = begin == len(prefix)
            yield self._ref(segment, begin, piece, VariantKind.BASE, prefix, exact, point)
            begin += len(piece)

    def _ref(
        self,
        segment: int,
        begin: int,
        tokens: TokenIds,
        kind: VariantKind,
        context: TokenIds,
        exact: bool,
        point: OperatingPoint,
    ) -> ChunkRef:
        chunk = chunk_key(self._namespace, self._fingerprint, tokens)
        key = object_key(variant_key(chunk, kind, context_digest(context)), point.form)
        return ChunkRef(segment, begin, tokens, kind, context, exact, point, chunk, key)
