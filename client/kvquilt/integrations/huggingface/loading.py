"""From a request to a filled cache: plan, fetch, place."""

import logging

import numpy as np
import torch
from transformers.cache_utils import DynamicCache

from kvquilt.integrations.huggingface.filled import FilledCache
from kvquilt.worker import Extent, LoadPlan, WorkerCache, WorkerRequest
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.types import Array, DataType

log = logging.getLogger(__name__)

TOO_LONG = "prompt_too_long"


def load(
    worker: WorkerCache,
    request: WorkerRequest,
    device: torch.device,
    *,
    max_tokens: int | None,
    plan_deadline: float,
    deadline: float,
) -> FilledCache:
    """A cache for one prompt; an empty one with a reason where there is no help.

    Args:
        worker: plans and fetches.
        request: the prompt, and how much of it is wanted.
        device: where the model is.
        max_tokens: the model's context, if it is known.
        plan_deadline: seconds until there must be a plan.
        deadline: seconds that the fetch may take.
    """
    input_ids = torch.from_numpy(request.token_ids.astype(np.int64))[None].to(device)
    if max_tokens is not None and len(request.token_ids) > max_tokens:
        return FilledCache(input_ids, DynamicCache(), None, TOO_LONG, request)
    try:
        return _loaded(worker, request, input_ids, plan_deadline, deadline)
    except Exception:
        log.exception("kvquilt could not help")
        return FilledCache(input_ids, DynamicCache(), None, KvquiltError.reason, request)


def _loaded(
    worker: WorkerCache, request: WorkerRequest, input_ids: torch.Tensor, plan_deadline: float, deadline: float
) -> FilledCache:
    if request.extent is Extent.PROMPT:  # is offered always
        plan = LoadPlan(Extent.PROMPT, 0, len(request.token_ids) - 1)
    else:
        plan = worker.plan(request, plan_deadline)
    closed, stored = plan.gate_refusal, plan.stored_tokens
    if not plan.tokens:
        return FilledCache(
            input_ids, DynamicCache(), None, plan.reason, request, gate_refusal=closed, stored_tokens=stored
        )
    layers: list[tuple[torch.Tensor, torch.Tensor]] = []

    def place(_: int, keys: Array, values: Array) -> None:
        layers.append((_tensor(keys, input_ids.device), _tensor(values, input_ids.device)))

    loaded = worker.fetch(request, plan, place, deadline)
    if not loaded.complete:
        return FilledCache(input_ids, DynamicCache(), None, loaded.reason, request)
    report = loaded.report
    return FilledCache(
        input_ids,
        DynamicCache(layers),
        report,
        "",
        request,
        exact=loaded.exact,
        gate_refusal=closed or (report.gate_refusal if report is not None else ""),
        stored_tokens=min(stored, loaded.kv_tokens) if loaded.extent is Extent.EXACT else 0,
    )


def _tensor(array: Array, device: torch.device) -> torch.Tensor:
    """`[kv_heads, tokens, dim]` to `[1, kv_heads, tokens, dim]`, on a CPU without a copy."""
    if array.dtype == DataType.BFLOAT16.numpy:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor[None].to(device)
