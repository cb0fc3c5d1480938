"""A connector in less than a hundred lines: kvquilt under an engine, by plan, fetch, place and save.

The engine is HF Transformers, one request at a time; docs/writing-a-connector.md says what others need beside that.
Run `kvquilt serve` and then, twice: `python examples/connector.py "What is a context cache?"`
"""

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from kvquilt.worker import Extent, KvToSave, ServedModel, WorkerCache, WorkerRequest
from kvquilt_codec.types import Array, DataType, TokenIds
from kvquilt_router.engine import LoadedModel, load_model
from kvquilt_router.engine.kv import to_numpy


class Connector:
    """Generates with a model, and lets a router's KV spare it what was computed before."""

    def __init__(self, loaded: LoadedModel, model: Any, target: str, extent: Extent = Extent.AUTO) -> None:
        self.model = model
        self.extent = extent
        self.layout = loaded.engine.traits.layout
        self.cache = WorkerCache(ServedModel(loaded.fingerprint, self.layout), target)

    def generate(self, token_ids: TokenIds, count: int) -> TokenIds:
        """The prompt's greedy continuation."""
        request = WorkerRequest(token_ids, extent=self.extent, level="lossless")
        past, exact = self._loaded(request)
        known = past.get_seq_length()
        ids = torch.from_numpy(token_ids.astype(np.int64))[None]
        with torch.inference_mode():
            if known < len(token_ids) - 1:
                began = time.perf_counter()
                self.model(ids[:, known:-1], past_key_values=past, use_cache=True)
                self.cache.prefilled(len(token_ids) - 1 - known, time.perf_counter() - began)
            output = self.model.generate(
                ids, past_key_values=past, max_new_tokens=count, do_sample=False, attention_mask=torch.ones_like(ids)
            )
        text: TokenIds = output[0].numpy().astype(np.uint32)
        if exact is not None:
            self._save(replace(request, token_ids=text), past, exact)
        return text[len(token_ids) :]

    def _loaded(self, request: WorkerRequest) -> tuple[DynamicCache, int | None]:
        """KV for the prompt, and how much of it is stored already; `None` where something was blended."""
        plan = self.cache.plan(request, deadline=1.0)
        placed: list[tuple[torch.Tensor, torch.Tensor]] = []
        loaded = self.cache.fetch(
            request, plan, lambda _, keys, values: placed.append((self._tensor(keys), self._tensor(values))), 10.0
        )
        if not loaded.complete or loaded.kv_tokens == 0:
            return DynamicCache(), plan.stored_tokens
        return DynamicCache(placed), plan.stored_tokens if loaded.exact else None

    def _save(self, request: WorkerRequest, past: DynamicCache, begin: int) -> None:
        """Prompt and answer, so that the next turn finds them. The last token's KV was never computed."""
        layers = [(self._array(layer.keys, begin), self._array(layer.values, begin)) for layer in past.layers]
        end = past.get_seq_length()
        if begin < end:
            self.cache.save(KvToSave(request, layers, exact_tokens=end, begin=begin))

    def _tensor(self, array: Array) -> torch.Tensor:
        if self.layout.data_type is DataType.BFLOAT16:  # NumPy has none of its own: 16-bit words
            return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)[None]
        return torch.from_numpy(array)[None]

    @staticmethod
    def _array(tensor: torch.Tensor, begin: int) -> Array:
        return np.ascontiguousarray(to_numpy(tensor[:, :, begin:]).transpose(1, 0, 2))


def main() -> None:
    """Answer a question, and say what was loaded."""
    loaded = load_model("smollm2")
    connector = Connector(loaded, loaded.engine._runner.model, "127.0.0.1:7410")
    began = time.perf_counter()
    answer = connector.generate(loaded.tokenise(" ".join(sys.argv[1:])), 32)
    print(loaded.text(answer), f"({time.perf_counter() - began:.1f} s)")
    connector.cache.settle()
    print(connector.cache.counters())
    connector.cache.close()


if __name__ == "__main__":
    main()
