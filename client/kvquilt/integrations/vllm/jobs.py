"""What the scheduler's side tells the workers in each step, and what they answer."""

from dataclasses import dataclass, field

from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorMetadata, KVConnectorWorkerMetadata

from kvquilt.worker import LoadPlan, WorkerRequest


@dataclass(frozen=True, slots=True)
class Load:
    """KV of one request's tokens `[begin, end)` that is to be placed.

    Attributes:
        request_id: vLLM's.
        request: what was planned; its `computed_tokens` are `begin`.
        plan: what the router offered.
        blocks: the request's block table, from its first token on.
        begin, end: tokens.
    """

    request_id: str
    request: WorkerRequest
    plan: LoadPlan
    blocks: list[int]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Save:
    """KV of one request's tokens `[begin, end)` that is to be copied out and saved; all up to `end` is exact.

    Attributes:
        request: its tokens, at least up to `end`.
        blocks: the request's block table.
        document_ids: under which the chunks can be forgotten.
        ttl, ttl_renewed: seconds that they stay at most, and whether each use begins them anew.
    """

    request: WorkerRequest
    blocks: list[int]
    begin: int
    end: int
    document_ids: tuple[str, ...]
    ttl: float | None
    ttl_renewed: bool


@dataclass(slots=True)
class StepJobs(KVConnectorMetadata):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """The jobs of one step.

    Attributes:
        fingerprint: of the model; empty: not known yet, and there are no jobs.
        loads: to begin.
        saves_before: of requests that have finished: copied out before anything is written to the cache in this step.
        saves_after: of requests whose prompt this step completes: copied out after its forward pass.
        prompt_tokens: tokens of prompts that the step computes.
        idle: the step computes nothing.
        only_loads: nor could any other step before a load ends, of the requests that there are.
    """

    fingerprint: str = ""
    loads: list[Load] = field(default_factory=list)
    saves_before: list[Save] = field(default_factory=list)
    saves_after: list[Save] = field(default_factory=list)
    prompt_tokens: int = 0
    idle: bool = False
    only_loads: bool = False


@dataclass(frozen=True, slots=True)
class Loaded:
    """What became of a load.

    Attributes:
        kv_tokens: KV of the tokens up to this one was placed.
        reason: why that is less than was planned; empty if it is not.
        tokens_exact: tokens of the prompt whose KV was computed in exactly this context.
        router_request_id: names the request to `kvquilt why`.
    """

    kv_tokens: int
    reason: str
    tokens_exact: int
    router_request_id: str


@dataclass(slots=True)
class WorkerNews(KVConnectorWorkerMetadata):  # type: ignore[misc]
    """What the workers have to tell.

    Attributes:
        loaded: by request; of several ranks the least.
        off_reason: why this worker can place nothing; empty if it can.
        counters: what was counted since it last told.
        prompt_tokens, prefill_seconds: of the step, if it says how fast prompts are computed; else 0.
    """

    loaded: dict[str, Loaded] = field(default_factory=dict)
    off_reason: str = ""
    counters: dict[str, int] = field(default_factory=dict)
    prompt_tokens: int = 0
    prefill_seconds: float = 0.0

    def aggregate(self, other: "KVConnectorWorkerMetadata") -> "WorkerNews":
        """The news of two ranks."""
        if not isinstance(other, WorkerNews):
            return self
        loaded = dict(self.loaded)
        for request_id, its in other.loaded.items():
            mine = loaded.get(request_id)
            loaded[request_id] = its if mine is None else min(mine, its, key=lambda one: one.kv_tokens)
        counters = dict(self.counters)
        for name, amount in other.counters.items():
            counters[name] = counters.get(name, 0) + amount
        slower = max(self, other, key=lambda news: news.prefill_seconds)
        return WorkerNews(
            loaded, self.off_reason or other.off_reason, counters, slower.prompt_tokens, slower.prefill_seconds
        )
