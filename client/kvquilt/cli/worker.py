"""A GPU worker in small: holds the model, fills its cache from a router, decodes, and can measure the difference.

Used by `kvquilt ask` and the demo. TTFT runs from the tokenised prompt to the first answer token.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.transformers import Extent, FilledCache, KvquiltCache
from kvquilt.sync import Client
from kvquilt.types import Segment
from kvquilt_router.engine.model import resolve
from kvquilt_router.evaluation.judge import ANSWER_TOKENS
from kvquilt_rpc.security import Credentials


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """Greedy answer to a prompt.

    Attributes:
        text: decoded, special tokens left out.
        token_ids: the answer's tokens.
        logits: `[len(token_ids), vocabulary]`, what each answer token was chosen from.
        ttft_s: seconds to the first answer token.
        filled: how the cache was filled; `None` for a full prefill.
    """

    text: str
    token_ids: list[int]
    logits: torch.Tensor
    ttft_s: float
    filled: FilledCache | None


@dataclass(frozen=True, slots=True)
class Difference:
    """How far an answer is from that of a full prefill.

    Attributes:
        first_token_kl: KL(full || blended) of the first answer token's distribution, in nats.
        answer_kl: mean of the same over the full prefill's answer tokens (the first 16: what the gate measures).
        top1_agreement: share of the full prefill's answer tokens that the blended cache ranks first too, each given
            the answer so far (teacher forcing).
    """

    first_token_kl: float
    answer_kl: float
    top1_agreement: float


class Worker:
    """Answers prompts with a Transformers model.

    Args:
        model: see `resolve`.
        router: address of the router.
        credentials: as whom to call it.
        dtype: type to compute in; must be the router's.
        threads: of torch; 0 leaves its default.
        deadline: seconds that the router may take for a cache, as of `KvquiltCache`.
        plan_deadline: seconds of them until it says what it has.
    """

    def __init__(
        self,
        model: str,
        router: str,
        *,
        dtype: str = "float32",
        threads: int = 0,
        credentials: Credentials | None = None,
        deadline: float = 30.0,
        plan_deadline: float = 2.0,
    ) -> None:
        if threads:
            torch.set_num_threads(threads)
        folder = resolve(model)
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto" if dtype == "auto" else getattr(torch, dtype), local_files_only=True
        ).eval()
        self._opened = partial(
            KvquiltCache,
            self._model,
            self._tokenizer,
            credentials=credentials,
            extent=Extent.PROMPT,
            deadline=deadline,
            plan_deadline=plan_deadline,
        )
        self._cache = self._opened(router)
        self._ends = _end_tokens(self._model, self._tokenizer)
        self._warm_up()

    @property
    def client(self) -> Client:
        """Of the router."""
        return self._cache.client

    def close(self) -> None:
        """Close what calls the router."""
        self._cache.close()

    def connect(self, router: str) -> None:
        """Use another router from now on."""
        served = self._cache.worker.model
        self._cache.close()
        self._cache = self._opened(router, served=served)

    def ask(self, segments: Sequence[Segment], *, max_tokens: int = 48, **options: Any) -> Answer:
        """Answer with a cache filled from the router; `options` as in `KvquiltCache.fill`."""
        started = time.perf_counter()
        filled = self._cache.fill(segments, **options)
        return self._decode(filled.input_ids, filled.past_key_values, started, max_tokens, filled)

    def ask_chat(self, messages: Sequence[Mapping[str, str]], *, max_tokens: int = 48, **options: Any) -> Answer:
        """Answer the last message of a conversation; `messages` and `options` as in `KvquiltCache.fill_chat`."""
        started = time.perf_counter()
        filled = self._cache.fill_chat(messages, **options)
        return self._decode(filled.input_ids, filled.past_key_values, started, max_tokens, filled)

    def ask_in_full(self, segments: Sequence[Segment], *, max_tokens: int = 48) -> Answer:
        """Answer after a full prefill of the same tokens, as without kvquilt."""
        return self.in_full(self._cache.token_ids(segments).tolist(), max_tokens=max_tokens)

    def in_full(self, token_ids: Sequence[int], *, max_tokens: int = 48) -> Answer:
        """Answer a whole prompt after a full prefill."""
        started = time.perf_counter()
        return self._decode(torch.tensor([token_ids]), DynamicCache(), started, max_tokens, None)

    def save(self, answer: Answer, *, wait: bool = False) -> int:
        """Store prompt and answer in the background, where the prompt was exact; the tokens that are stored.

        Args:
            answer: that `ask` gave.
            wait: until they are.
        """
        if answer.filled is None:
            return 0
        said = torch.tensor([answer.token_ids], dtype=answer.filled.input_ids.dtype)
        saved = self._cache.save(answer.filled, torch.cat([answer.filled.input_ids, said], dim=1))
        if wait:
            self._cache.settle()
        return saved

    @torch.inference_mode()
    def difference(self, full: Answer, answer: Answer) -> Difference:
        """Compare an answer that `ask` gave with a full prefill's answer to the same prompt."""
        if answer.filled is None:
            return Difference(0.0, 0.0, 1.0)
        input_ids = answer.filled.input_ids
        prompt = input_ids.shape[1] - 1
        # Decoding has appended to the cache; the prompt's part of it is as it was filled.
        cache = DynamicCache(
            [(kv.keys[:, :, :prompt], kv.values[:, :, :prompt]) for kv in answer.filled.past_key_values.layers]
        )
        forced = [int(input_ids[0, -1]), *full.token_ids[:-1]]
        logits = self._model(torch.tensor([forced]), past_key_values=cache, use_cache=True).logits[0]
        p, q = full.logits.float().log_softmax(-1), logits.float().log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1)[:ANSWER_TOKENS]
        agree = logits.argmax(-1) == torch.tensor(full.token_ids)
        return Difference(float(kl[0]), float(kl.mean()), float(agree.float().mean()))

    @torch.inference_mode()
    def _decode(
        self,
        input_ids: torch.Tensor,
        cache: DynamicCache,
        started: float,
        max_tokens: int,
        filled: FilledCache | None,
    ) -> Answer:
        step = input_ids[:, cache.get_seq_length() :]
        tokens: list[int] = []
        logits: list[torch.Tensor] = []
        ttft = 0.0
        while len(tokens) < max_tokens:
            last = self._model(step, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
            tokens.append(int(last.argmax()))
            logits.append(last)
            ttft = ttft or time.perf_counter() - started
            if tokens[-1] in self._ends:
                break
            step = torch.tensor([[tokens[-1]]])
        text = self._tokenizer.decode(tokens, skip_special_tokens=True).strip()
        return Answer(text, tokens, torch.stack(logits), ttft, filled)

    @torch.inference_mode()
    def _warm_up(self) -> None:
        """The first call of a process pays for things that no later one does."""
        self._model(torch.arange(64)[None], past_key_values=DynamicCache(), use_cache=True)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    ends = model.generation_config.eos_token_id
    found = set(ends if isinstance(ends, list) else [ends]) | {tokenizer.eos_token_id}
    return {int(token) for token in found if token is not None}
