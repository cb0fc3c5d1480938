"""What the scheduler's side knows of one request, and what it changes in vLLM's own record of it."""

from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from kvquilt.integrations.vllm.jobs import Load, Loaded
from kvquilt.integrations.vllm.options import RequestOptions
from kvquilt.worker import LoadPlan


@dataclass(slots=True)
class Followed:
    """One request, from its arrival to its end.

    Attributes:
        request: vLLM's.
        options: what it says; `None`: the cache has nothing to do with it.
        reason: why nothing was loaded; empty if something was, or is to be.
        request_id: names a request for which nothing was offered to `kvquilt why`.
        planning: the plan that is asked for.
        planned_for: tokens that vLLM had when it was.
        asked_at: when.
        plans: how many it asked for.
        load: what was begun.
        loading: the load that is to be told to the workers.
        loaded: what became of it.
        stored: KV up to this token is stored.
        sent: KV up to this one was given to be saved.
        blended: vLLM has KV of it that is not exact.
    """

    request: Any
    options: RequestOptions | None = None
    reason: str = ""
    request_id: str = ""
    planning: "Future[LoadPlan] | None" = None
    planned_for: int = -1
    asked_at: float = 0.0
    plans: int = 0
    load: Load | None = None
    loading: Load | None = None
    loaded: Loaded | None = None
    stored: int = 0
    sent: int = 0
    blended: bool = False

    @property
    def loads(self) -> bool:
        """Whether it waits for its load."""
        return self.load is not None and self.loaded is None

    @property
    def plans_only(self) -> bool:
        """Whether nothing was decided yet of what it asked for."""
        return self.planning is not None and self.load is None and not self.reason

    def told(self) -> dict[str, Any]:
        """What the response says of the cache."""
        load, loaded = self.load, self.loaded
        if load is None or loaded is None:
            told = {"tokens_exact": 0, "tokens_blended": 0, "reason": self.reason}
            return told | ({"request_id": self.request_id} if self.request_id else {})
        exact = max(0, min(loaded.tokens_exact, loaded.kv_tokens) - load.begin)
        return {
            "tokens_exact": exact,
            "tokens_blended": loaded.kv_tokens - load.begin - exact,
            "reason": loaded.reason,
            "request_id": loaded.router_request_id,
        }


def isolate(request: Any) -> None:
    """Keep a request's blocks out of what other prompts find in vLLM's own prefix cache, from the first block on.

    Blocks that it has found there keep their names; those that are filled from now on, the answer's among them, are
    named with a salt that nobody else has.
    """
    request.cache_salt = f"{request.cache_salt or ''}|kvquilt:{uuid4().hex}"
    request.block_hashes.clear()
    request.update_block_hashes()


def show_cached(request: Any, tokens: int) -> None:
    """What `usage.prompt_tokens_details.cached_tokens` shows of a request: exact hits, vLLM's own among them."""
    stats = request.prefill_stats
    if stats is not None:
        stats.num_cached_tokens = tokens
