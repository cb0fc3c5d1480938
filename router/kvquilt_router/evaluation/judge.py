"""What a blend does to the answer, beside a full prefill of the same prompt."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from kvquilt_codec.types import TokenIds
from kvquilt_router.assembly import Assembly, PlacedChunk
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.evaluation.types import Case, Outcome
from kvquilt_router.selection import RecomputePolicy

ANSWER_TOKENS = 16
"""Greedily decoded tokens that divergence is measured on where no answer is given."""


@dataclass(frozen=True, slots=True, eq=False)
class Divergence:
    """Of a blend from a full prefill, over the tokens of an answer.

    Attributes:
        kl: mean KL(full || blended), in nats.
        first_token_kl: of the first token.
        top1_agreement: share of tokens where both rank the same one first.
    """

    kl: float
    first_token_kl: float
    top1_agreement: float

    @classmethod
    def between(cls, full: torch.Tensor, blended: torch.Tensor) -> "Divergence":
        """Of log-probabilities `[tokens, vocabulary]`."""
        kl = (full.exp() * (full - blended)).sum(-1).double()
        same = (full.argmax(-1) == blended.argmax(-1)).double()
        return cls(float(kl.mean()), float(kl[0]), float(same.mean()))


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """A case answered after a full prefill.

    Attributes:
        case: what was asked.
        layers: KV of all tokens of the prompt but the last.
        answer: the tokens that are compared.
        scores: log-probabilities `[answer, vocabulary]`.
        cpu_seconds: process CPU time of the prefill, without decoding.
    """

    case: Case
    layers: Sequence[LayerTensors]
    answer: TokenIds
    scores: torch.Tensor
    cpu_seconds: float

    @classmethod
    def of(cls, engine: Engine, case: Case) -> "Reference":
        """Prefill in full, and answer."""
        token_ids = case.prompt.token_ids
        started = time.process_time()
        layers = engine.prefill(token_ids[:-1])
        spent = time.process_time() - started
        if len(case.answer):
            return cls(case, layers, case.answer, teacher_forced(engine, token_ids, case.answer, layers), spent)
        scores = engine.decode_greedily(int(token_ids[-1]), layers, ANSWER_TOKENS)
        return cls(case, layers, scores.argmax(-1).cpu().numpy().astype(np.uint32), scores, spent)


def judge(
    engine: Engine,
    reference: Reference,
    placed: Sequence[PlacedChunk],
    policy: RecomputePolicy,
    recompute_ratio: float,
    seed: int = 0,
) -> Outcome:
    """Blend and compare. CPU time is of merging, choosing and computing; decoding chunks is not in it."""
    prompt = reference.case.prompt
    started = time.process_time()
    assembly = Assembly(engine, prompt, placed)
    assembly.merge()
    selection = assembly.select(policy, assembly.problem(recompute_ratio, seed))
    assembly.compute(selection, lambda *_: None)
    spent = time.process_time() - started
    scores = teacher_forced(engine, prompt.token_ids, reference.answer, assembly.kv.layers)
    return outcome(reference, scores, spent, len(assembly.recomputed))


def outcome(reference: Reference, scores: torch.Tensor, cpu_seconds: float, tokens_recomputed: int) -> Outcome:
    """Of a blend that gave the answer's tokens the log-probabilities `scores`, `[answer, vocabulary]`."""
    divergence = Divergence.between(reference.scores, scores)
    known = torch.from_numpy(reference.answer.astype(np.int64)).to(scores.device)
    return Outcome(
        divergence.kl,
        divergence.first_token_kl,
        divergence.top1_agreement,
        cpu_seconds / reference.cpu_seconds,
        tokens_recomputed,
        bool((scores.argmax(-1) == known).all()),
        bool((reference.scores.argmax(-1) == known).all()),
    )


@torch.inference_mode()
def teacher_forced(
    engine: Engine, token_ids: TokenIds, answer: TokenIds, layers: Sequence[LayerTensors]
) -> torch.Tensor:
    """Log-probabilities `[answer, vocabulary]` of an answer's tokens after a prompt; `layers` is the KV of its head."""
    known = layers[0].keys.shape[2]
    return engine.score(np.concatenate([token_ids[known:], answer[:-1]]), layers)[-len(answer) :]
