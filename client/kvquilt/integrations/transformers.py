"""HF Transformers: a filled `DynamicCache`, so that `model.generate(..., past_key_values=cache)` just works.

Needs `pip install kvquilt[model]`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from kvquilt.segments import split_segments
from kvquilt.sync import Client
from kvquilt.types import BlendedKV, BlendReport, Public, Segment
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, KvquiltError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine.chat import chat_frame, tokenise
from kvquilt_router.engine.fingerprint import fingerprint
from kvquilt_router.engine.kv import TORCH_TYPES, to_torch

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class FilledCache:
    """What `generate` needs.

    Attributes:
        input_ids: `[1, tokens]`, the whole prompt.
        past_key_values: KV of all tokens but the last; empty if the cache could not help.
        report: what was done, or `None` if the cache could not help.
        fallback_reason: why it could not; empty otherwise.
    """

    input_ids: torch.Tensor
    past_key_values: DynamicCache
    report: BlendReport | None
    fallback_reason: str


class KvquiltCache:
    """Fills Transformers caches from a router.

    A fault of the cache never fails a request: the prompt then has to be computed in full, and `fallback_reason` says
    why. Faults of the request itself (an empty segment, a prompt that is too long) are raised.

    Args:
        client: connected to a router that serves this very model.
        model: a Transformers causal LM.
        tokenizer: its tokenizer.
        deadline: seconds that a fill may take before it falls back.

    Example:
        ```python
        kvquilt = KvquiltCache(Client(), model, tokenizer)
        filled = kvquilt.fill([passage_1, passage_2, "Question: ..."])
        output = model.generate(filled.input_ids, past_key_values=filled.past_key_values)
        ```
    """

    def __init__(self, client: Client, model: Any, tokenizer: Any, *, deadline: float = 30.0) -> None:
        self._client = client
        self._tokenizer = tokenizer
        self._frame = chat_frame(tokenizer)
        self._device = model.device
        self._dtype = model.dtype
        self._deadline = deadline
        self.fingerprint = fingerprint(model, tokenizer).digest

    def tokens(self, segments: Sequence[Segment], shared_prefix: Segment | None = None) -> list[TokenIds]:
        """Token ids of shared prefix, documents and question, as a fill sends them.

        Raises:
            BadRequestError: no segments, or an empty one.
        """
        documents, question = split_segments(segments)
        framed = shared_prefix is None
        head = self._tokens(self._frame.head if shared_prefix is None else shared_prefix)
        asked = self._tokens(question)
        if framed and self._frame.tail:
            asked = np.concatenate([asked, self._tokens(self._frame.tail)])
        return [head, *(self._tokens(document) for document in documents), asked]

    def fill(self, segments: Sequence[Segment], *, shared_prefix: Segment | None = None, **options: Any) -> FilledCache:
        """A cache for one prompt.

        Args:
            segments: documents in prompt order, the question last.
            shared_prefix: what the prompt begins with; by default the model's chat template frames the prompt.
            options: `policy`, `recompute_ratio`, `level`, `max_kl`, `seed`, `transient` as in `AsyncClient.blend`.

        Raises:
            BadRequestError: the request cannot be right, whatever computes it.
        """
        head, *rest = self.tokens(segments, shared_prefix)
        input_ids = torch.from_numpy(np.concatenate([head, *rest]).astype(np.int64))[None].to(self._device)
        try:
            blended = self._client.blend(
                [_like(part, segment) for part, segment in zip(rest, segments, strict=True)],
                shared_prefix=_like(head, shared_prefix),
                model=self.fingerprint,
                deadline=self._deadline,
                **options,
            )
            return FilledCache(input_ids, self._place(blended, input_ids), blended.report, "")
        except BadRequestError:
            raise
        except KvquiltError as error:
            log.warning("kvquilt could not help: %s", error)
            return FilledCache(input_ids, DynamicCache(), None, error.reason)

    def _place(self, blended: BlendedKV, input_ids: torch.Tensor) -> DynamicCache:
        if blended.model_fingerprint != self.fingerprint or TORCH_TYPES[blended.layout.data_type] != self._dtype:
            raise FingerprintMismatchError("expected KV of the worker's own model; the router sent another's")
        if blended.token_ids.tolist() != input_ids[0].tolist():
            raise FingerprintMismatchError("expected KV of the tokens that were sent; the router's differ")
        data_type = blended.layout.data_type
        return DynamicCache(
            [
                tuple(to_torch(tensor, data_type).contiguous().to(self._device) for tensor in (kv.keys, kv.values))
                for kv in blended.layers
            ]
        )

    def _tokens(self, segment: Segment) -> TokenIds:
        if isinstance(segment, Public):
            segment = segment.content
        if isinstance(segment, str):
            return tokenise(self._tokenizer, segment) if segment else np.empty(0, np.uint32)
        return np.asarray(segment, dtype=np.uint32)


def _like(tokens: TokenIds, segment: Segment | None) -> Segment:
    """Tokens of a segment, public if it is."""
    return Public(tokens.tolist()) if isinstance(segment, Public) else tokens.tolist()
