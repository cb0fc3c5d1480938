"""Parallel encoding judged beside a full prefill: APE (arXiv 2502.05431), which no router can serve."""

import time
from collections.abc import Sequence

import numpy as np

from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.evaluation.judge import Reference, outcome
from kvquilt_router.evaluation.types import Outcome


def judge_parallel(
    engine: Engine,
    reference: Reference,
    prefix: Sequence[LayerTensors],
    chunks: Sequence[Sequence[LayerTensors]],
    temperature: float,
    scale: float,
) -> Outcome:
    """Read question and answer with the chunks side by side; nothing is merged, rotated or computed again.

    Args:
        engine: computes.
        reference: the case after a full prefill.
        prefix: KV of the shared prefix, from position 0 on.
        chunks: KV of each document computed directly after it; of the first one that is its exact context.
        temperature: T of the attention to the chunks.
        scale: S of it.

    CPU time is that of reading the question without its last token, as of the other ways.
    """
    question = reference.case.prompt.question
    if len(question) > 1:
        started = time.process_time()
        engine.score_parallel(question[:-1], prefix, chunks, temperature, scale)
        spent = time.process_time() - started
    else:
        spent = 0.0
    read = np.concatenate([question, reference.answer[:-1]])
    scores = engine.score_parallel(read, prefix, chunks, temperature, scale)[len(question) - 1 :]
    return outcome(reference, scores, spent, 0)
