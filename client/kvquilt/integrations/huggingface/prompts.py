"""From what a caller gives to the tokens of a prompt."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kvquilt.segments import split_segments
from kvquilt.types import Public, Segment
from kvquilt.wire import MAX_TOKENS
from kvquilt.worker import WorkerRequest
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds, check_token_ids
from kvquilt_router.engine.chat import chat_frame, tokenise


class Prompts:
    """Makes prompts of one model's tokens.

    Args:
        tokenizer: the model's, or `None` where only token ids are used.
    """

    def __init__(self, tokenizer: Any | None) -> None:
        self._tokenizer = tokenizer
        self._frame = chat_frame(tokenizer)

    @property
    def padding_id(self) -> int:
        """A token id for places that are masked; any would do."""
        given = getattr(self._tokenizer, "pad_token_id", None)
        return 0 if given is None else int(given)

    def of(self, segments: Sequence[Segment], shared_prefix: Segment | None, **options: Any) -> WorkerRequest:
        """A prompt of shared prefix, documents and question; empty documents are left out.

        Args:
            segments: the question last.
            shared_prefix: by default the model's chat template frames the prompt.
            options: other attributes of the request.

        Raises:
            BadRequestError: no segments, an empty question, or options that cannot be right.
        """
        if not isinstance(segments, str):
            segments = [*filter(len, segments[:-1]), *segments[-1:]]
        documents, question = split_segments(segments)
        given = [self._frame.head if shared_prefix is None else shared_prefix, *documents]
        parts = [self.tokenised(part) for part in (*given, question)]
        if shared_prefix is None and self._frame.tail:
            parts.append(self.tokenised(self._frame.tail))
        return WorkerRequest(
            np.concatenate(parts),
            prefix_tokens=len(parts[0]),
            document_tokens=tuple(map(len, parts[1 : len(given)])),
            public=frozenset(number for number, part in enumerate(given) if isinstance(part, Public)),
            **options,
        )

    def plain(self, prompt: str | Sequence[int], **options: Any) -> WorkerRequest:
        """A prompt whose boundaries are not known; see `of`."""
        return WorkerRequest(self.tokenised(prompt), **options)

    def chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> WorkerRequest:
        """A conversation, up to where the model answers; see `of`.

        Raises:
            BadRequestError: no messages; a tokenizer without a chat template, or one that does not take them.
        """
        if not messages or self._tokenizer is None or not getattr(self._tokenizer, "chat_template", None):
            raise BadRequestError("expected messages, and a tokenizer with a chat template; got none")
        try:
            text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except Exception as error:  # noqa: BLE001  a template is a program of the model's, and raises what it likes
            raise BadRequestError(f"expected messages that the chat template takes; got {error}") from None
        return self.plain(text, **options)

    def tokenised(self, segment: Segment) -> TokenIds:
        """Token ids of a text, special tokens in it recognised and none added; or those that were given.

        Raises:
            BadRequestError: neither text nor token ids; a text, and no tokenizer.
        """
        if isinstance(segment, Public):
            segment = segment.content
        if len(segment) == 0:
            return np.empty(0, np.uint32)
        if not isinstance(segment, str):
            return check_token_ids(np.asarray(segment), MAX_TOKENS)
        if self._tokenizer is None:
            raise BadRequestError("expected token ids, since there is no tokenizer; got text")
        return tokenise(self._tokenizer, segment)
