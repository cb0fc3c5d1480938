"""`KvquiltConnector`: vLLM's interface, handed on to the scheduler's or the worker's side."""

from typing import Any

import torch
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorRole, SupportsHMA

from kvquilt.integrations.vllm.caches import layout_of
from kvquilt.integrations.vllm.counting import Tally, guarded
from kvquilt.integrations.vllm.engine import serving_engine
from kvquilt.integrations.vllm.identity import Identity
from kvquilt.integrations.vllm.jobs import StepJobs, WorkerNews
from kvquilt.integrations.vllm.options import parse_settings
from kvquilt.integrations.vllm.scheduler import SchedulerSide
from kvquilt.integrations.vllm.stats import KvquiltPrometheus, KvquiltStats
from kvquilt.integrations.vllm.texts import Texts
from kvquilt.integrations.vllm.worker import WorkerSide
from kvquilt_codec.errors import KvquiltError


class KvquiltConnector(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """Loads KV from kvquilt into vLLM, and saves what vLLM computes. docs/vllm.md says how it is switched on.

    No fault reaches the engine: a request whose KV cannot be loaded is computed, and counted. What kvquilt cannot serve
    (other kinds of caches, quantised ones, speculative decoding) it says once and leaves alone.

    Args:
        vllm_config: vLLM's.
        role: scheduler or worker.
        kv_cache_config: the caches that vLLM made.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        self.tally = Tally()
        self._scheduler: SchedulerSide | None = None
        self._worker: WorkerSide | None = None
        try:
            settings = parse_settings(self._kv_transfer_config.kv_connector_extra_config)
            engine = serving_engine(vllm_config, kv_cache_config)
            if role == KVConnectorRole.WORKER:
                self._worker = WorkerSide(settings, engine, self.tally)
                return
            identity = Identity(
                settings.model_fingerprint,
                engine.folder,
                engine.data_type,
                settings.target,
                settings.credentials,
                self.tally,
            )
            texts = Texts(engine.folder, self.tally)
            self._scheduler = SchedulerSide(settings, engine, identity, texts, self.tally)
        except KvquiltError as error:
            self.tally.warn_once(f"off: {error}")
        except Exception as error:  # noqa: BLE001  # the engine starts without the cache rather than not at all
            self.tally.fault("start", error)

    @property
    def requires_kv_delivery(self) -> bool:
        """No: what is not saved is a miss later."""
        return False

    # The scheduler's side.

    @guarded(lambda: (0, False))
    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """See vLLM."""
        return (0, False) if self._scheduler is None else self._scheduler.matched(request, num_computed_tokens)

    @guarded(lambda: None)
    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """See vLLM."""
        if self._scheduler is not None:
            self._scheduler.allocated(request, list(blocks.get_block_ids()[0]), num_external_tokens)

    def build_connector_meta(self, scheduler_output: Any) -> StepJobs:
        """See vLLM."""
        jobs = self._jobs()
        self._add_saves(jobs, scheduler_output)
        return jobs

    @guarded(StepJobs)
    def _jobs(self) -> StepJobs:
        return StepJobs() if self._scheduler is None else self._scheduler.jobs()

    @guarded(lambda: None)
    def _add_saves(self, jobs: StepJobs, scheduler_output: Any) -> None:
        if self._scheduler is not None:
            self._scheduler.add_saves(jobs, scheduler_output)

    @guarded(lambda: None)
    def update_connector_output(self, connector_output: Any) -> None:
        """See vLLM."""
        if self._scheduler is not None:
            self._scheduler.heard(connector_output)

    @guarded(lambda: (False, None))
    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """See vLLM."""
        return False, None if self._scheduler is None else self._scheduler.finished(request, block_ids)

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """See vLLM."""
        return self.request_finished(request, block_ids[0])

    # The worker's side.

    @guarded(lambda: None)
    def register_kv_caches(self, kv_caches: dict[str, torch.Tensor]) -> None:
        """See vLLM."""
        if self._worker is not None:
            try:
                self._worker.register(*layout_of(self._vllm_config, self._worker.engine, kv_caches))
            except KvquiltError as error:
                self._worker.off_reason = str(error)
                self.tally.warn_once(f"off: {error}")

    @guarded(lambda: None)
    def handle_preemptions(self, kv_connector_metadata: Any) -> None:
        """The first call of a step, before anything is written to the caches."""
        if self._worker is not None and isinstance(kv_connector_metadata, StepJobs):
            self._worker.before_step(kv_connector_metadata)

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None:
        """Loads have begun already, and no forward pass waits for them."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """Nothing: a request is computed when all of its KV has come."""

    def save_kv_layer(self, layer_name: str, kv_layer: torch.Tensor, attn_metadata: Any, **kwargs: Any) -> None:
        """Nothing: prompts are saved when they are complete."""

    @guarded(lambda: None)
    def wait_for_save(self) -> None:
        """See vLLM."""
        if self._worker is not None and isinstance(self._connector_metadata, StepJobs):
            self._worker.after_step(self._connector_metadata)

    @guarded(lambda: (None, None))
    def get_finished(
        self,
        finished_req_ids: set[str],  # noqa: ARG002  # of requests that hold blocks after their end: there are none
    ) -> tuple[set[str] | None, set[str] | None]:
        """See vLLM."""
        return None, None if self._worker is None else self._worker.finished_loads() or None

    @guarded(set)
    def get_block_ids_with_load_errors(self) -> set[int]:
        """See vLLM."""
        return set() if self._worker is None else self._worker.invalid_blocks()

    @guarded(lambda: None)
    def build_connector_worker_meta(self) -> WorkerNews | None:
        """See vLLM."""
        return None if self._worker is None else self._worker.news()

    # Both.

    @guarded(lambda: None)
    def get_kv_connector_stats(self) -> KvquiltStats | None:
        """What counters grew by; the workers' are told through the scheduler's side."""
        return None if self._scheduler is None else KvquiltStats.of(self.tally.news())

    @classmethod
    def build_kv_connector_stats(cls, data: dict[str, Any] | None = None) -> KvquiltStats:
        """See vLLM."""
        return KvquiltStats(data=data or {})

    @classmethod
    def build_prom_metrics(
        cls,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> KvquiltPrometheus:
        """See vLLM."""
        return KvquiltPrometheus(vllm_config, metric_types, labelnames, per_engine_labelvalues)

    @guarded(lambda: None)
    def shutdown(self) -> None:
        """See vLLM."""
        for side in (self._scheduler, self._worker):
            if side is not None:
                side.close()
