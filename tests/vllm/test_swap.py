"""Injected KV is what the engine attends to: with the KV of another text, the answer is about that text."""

from pathlib import Path

import numpy as np
import torch

from kvquilt.sync import Client
from kvquilt.worker import KvToSave, ServedModel, WorkerCache, WorkerRequest
from kvquilt_codec.types import DataType
from kvquilt_router.engine.model import read
from tests.vllm.engines import EngineProcess
from tests.vllm.prompts import text, token_ids


def document(model: str, city: str) -> list[int]:
    note = f"Agent Bob lives in {city}. The secret city of agent Bob is {city}. "
    return token_ids(model, f"<|im_start|>user\nRead these notes.\n{note * 4}Do not forget: Bob's city is {city}.\n")


def kv_of(model: str, tokens: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """What Transformers computes for a text: keys and values `[kv_heads, tokens, dim]` of each layer, in bfloat16."""
    loaded, _ = read(Path(model), "bfloat16")
    with torch.inference_mode():
        cache = loaded(torch.tensor([tokens]), use_cache=True).past_key_values

    def array(tensor: torch.Tensor) -> np.ndarray:
        return tensor[0].contiguous().view(torch.int16).numpy().view(DataType.BFLOAT16.numpy)

    return [(array(layer.keys), array(layer.values)) for layer in cache.layers]


def test_the_answer_follows_the_text_whose_kv_is_injected(
    engine: EngineProcess, client: Client, router: str, fingerprint: str, model: str
) -> None:
    paris, tokyo = document(model, "Paris"), document(model, "Tokyo")
    assert len(paris) == len(tokyo)
    question = token_ids(
        model, "What is the secret city of agent Bob?<|im_end|>\n<|im_start|>assistant\nThe secret city of agent Bob is"
    )
    assert text(model, engine.plain([*paris, *question], 3)).strip().startswith("Paris")
    assert text(model, engine.plain([*tokyo, *question], 3)).strip().startswith("Tokyo")

    prompt = [*paris, *question]
    request = WorkerRequest(np.asarray(prompt, np.uint32), prefix_tokens=0, document_tokens=(len(paris),))
    (served,) = client.models()
    with WorkerCache(ServedModel(fingerprint, served.layout), router) as worker:
        assert worker.save(KvToSave(request, kv_of(model, tokyo), exact_tokens=len(paris)))
        worker.settle()
    engine.forget()
    answer = engine.one(prompt, max_tokens=3, prefix_tokens=0, document_tokens=[len(paris)], extent="exact", save=False)
    assert answer.told["tokens_exact"] == len(paris)
    assert text(model, answer.token_ids).strip().startswith("Tokyo")
