"""Prompts of tiny models, put together from documents that were computed apart."""

from functools import cache

import numpy as np

from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.selection import ReusedChunk
from kvquilt_router.types import Prompt
from tests.router.families import SUPPORTED, tiny

PREFIX, QUESTION = 8, 6


@cache
def engine_of(family: str, layers: int = 4) -> Engine:
    """The engine of a tiny model."""
    config, extra = SUPPORTED[family]
    return Engine(tiny(config, extra if layers == 4 else {**extra, "num_hidden_layers": layers}))


def assembled(
    family: str, *, layers: int = 4, lengths: tuple[int, ...] = (40, 36, 30)
) -> tuple[Engine, Prompt, Assembly]:
    """Documents computed after the prefix alone, merged: the prefix and the first one are exact, the rest is reused."""
    engine = engine_of(family, layers)
    rng = np.random.default_rng(0)
    head, asked, *documents = (rng.integers(3, 500, n).astype(np.uint32) for n in (PREFIX, QUESTION, *lengths))
    after = engine.prefill(head)
    placed = [PlacedChunk(engine.to_chunk(head, after, 0, unrotate=False), ReusedChunk(0, PREFIX), exact=True)]
    begin = PREFIX
    for tokens in documents:
        chunk = engine.to_chunk(tokens, engine.prefill(tokens, after), PREFIX, unrotate=True)
        placed.append(PlacedChunk(chunk, ReusedChunk(begin, begin + len(tokens)), exact=begin == PREFIX))
        begin += len(tokens)
    prompt = Prompt(head, tuple(documents), asked)
    assembly = Assembly(engine, prompt, placed)
    assembly.merge()
    return engine, prompt, assembly
