"""How text becomes the tokens of a segment, and what frames a chat prompt. Router and workers must agree on both."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from kvquilt_codec.types import TokenIds

_MARK = "\u2063kvquilt\u2063"


@dataclass(frozen=True, slots=True)
class ChatFrame:
    """The model's chat template around one user message: the shared prefix of a chat application, and its end."""

    head: str
    tail: str


def chat_frame(tokenizer: Any | None) -> ChatFrame:
    """The frame of a tokenizer's chat template; empty strings without one."""
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        return ChatFrame("", "")
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": _MARK}], tokenize=False, add_generation_prompt=True
    )
    head, _, tail = rendered.partition(_MARK)
    return ChatFrame(head, tail)


def tokenise(tokenizer: Any, text: str) -> TokenIds:
    """Token ids of one segment's text: special tokens in it are recognised, none are added."""
    return np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], dtype=np.uint32)


def detokenise(tokenizer: Any, token_ids: TokenIds) -> str:
    """The text of token ids, special tokens written out; part of a character becomes U+FFFD."""
    return str(tokenizer.decode(token_ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))
