"""Prompts of real text, as token ids."""

import functools
from pathlib import Path

from transformers import AutoTokenizer

from kvquilt.demo.corpus import passages


@functools.cache
def tokenizer(model: str):  # type: ignore[no-untyped-def]
    return AutoTokenizer.from_pretrained(Path(model))


def token_ids(model: str, text: str) -> list[int]:
    """Token ids as kvquilt makes them of a segment."""
    return list(tokenizer(model)(text, add_special_tokens=False)["input_ids"])


def text(model: str, ids: list[int]) -> str:
    return str(tokenizer(model).decode(ids))


def passage(model: str, number: int, tokens: int = 300) -> list[int]:
    """A passage of the demo's corpus, cut to so many tokens."""
    documents = list(passages().values())
    return token_ids(model, str(documents[number].content))[:tokens]


def long_prompt(model: str, seed: int, tokens: int) -> list[int]:
    """Passages one after the other from a place that depends on `seed`, each time with its number before it."""
    made: list[int] = []
    number = seed
    while len(made) < tokens:
        made += token_ids(model, f"\n\n[{seed}.{number}] ") + passage(model, number % 10, 400)
        number += 1
    return made[:tokens]
