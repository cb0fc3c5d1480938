"""The scheduler's side: what is loaded and saved for which request, and when."""

import time
from dataclasses import replace
from typing import Any

import numpy as np

from kvquilt.integrations.vllm.counting import Tally
from kvquilt.integrations.vllm.engine import ServingEngine
from kvquilt.integrations.vllm.following import Followed, isolate, show_cached
from kvquilt.integrations.vllm.identity import Identity
from kvquilt.integrations.vllm.jobs import Load, Loaded, Save, StepJobs, WorkerNews
from kvquilt.integrations.vllm.options import PARAMETER, ConnectorSettings, RequestOptions, parse_request
from kvquilt.integrations.vllm.texts import Texts
from kvquilt.worker import Extent, LoadPlan, ServedModel, WorkerCache
from kvquilt_codec.errors import BadRequestError

_NAP = 0.001
"""Seconds that the scheduler waits for a plan that is not there yet while it has other work: it would ask again at
once, and without a pause take the time from those who make the plan."""
_PLANS = 4
"""Most plans of one request: what vLLM has of it changes while it waits for blocks, or when it is preempted."""
_OVERLAP = 512
"""Tokens that are sent again when a request's KV is saved further: the last of them were no whole chunk."""
_ENDED_WELL = ("STOP", "LENGTH")
"""Reasons of vLLM for a request's end after which its answer may be continued."""


class SchedulerSide:
    """Follows requests; called from the scheduler's thread only.

    Args:
        settings: the operator's.
        engine: what runs.
        identity: finds out the model's fingerprint; until then nothing is done.
        texts: finds documents in prompts.
        tally: counts.
    """

    def __init__(
        self, settings: ConnectorSettings, engine: ServingEngine, identity: Identity, texts: Texts, tally: Tally
    ) -> None:
        self._settings = settings
        self._engine = engine
        self._identity = identity
        self._texts = texts
        self._tally = tally
        self._cache: WorkerCache | None = None
        self._followed: dict[str, Followed] = {}
        self._finished: list[Save] = []
        self._waited = False
        self.off_reason = ""

    def matched(self, request: Any, computed: int) -> tuple[int | None, bool]:
        """How many tokens after the first `computed` ones are loaded; `None` while that is not known."""
        followed = self._follow(request)
        options = followed.options
        if options is None or not options.load or followed.reason:
            return 0, False
        if followed.load is not None and followed.loaded is None:
            return 0, False  # its load was lost: it must not be tried for ever
        plan = self._plan(followed, options, computed)
        if plan is None:
            return None, False
        # What is stored of the prompt need not be saved, whether it is loaded or vLLM has it.
        followed.stored = max(followed.stored, plan.stored_tokens)
        tokens = plan.kv_tokens - computed
        if plan.extent is Extent.NOTHING or tokens < self._settings.min_load_tokens:
            followed.reason = plan.reason or "too_short"
            followed.request_id = plan.request_id
            self._tally.add("plans_nothing")
            self._identity.explain(plan.reason, self._tally)
            return 0, False
        return tokens, True

    def allocated(self, request: Any, blocks: list[int], tokens: int) -> None:
        """Blocks were given to a request; `tokens` of KV are to be loaded into them."""
        followed = self._followed.get(request.request_id)
        if followed is None or tokens == 0 or followed.planning is None or followed.options is None:
            return
        plan, begin = followed.planning.result(), followed.planned_for
        planned = replace(followed.options.request, computed_tokens=begin)
        followed.load = Load(request.request_id, planned, plan, blocks, begin, begin + tokens)
        followed.loading = followed.load
        if not plan.exact and not followed.blended:
            isolate(request)
            followed.blended = True
        followed.loaded = None
        exact = max(0, min(plan.exact_tokens, begin + tokens) - begin)
        show_cached(request, begin + exact)

    def jobs(self) -> StepJobs:
        """What the workers are to do in this step."""
        self._waited = False
        jobs = StepJobs(self._identity.fingerprint)
        for followed in self._followed.values():
            if followed.loading is not None:
                jobs.loads.append(followed.loading)
                followed.loading = None
                self._tally.add("loads")
        jobs.saves_before, self._finished = self._finished, []
        return jobs

    def add_saves(self, jobs: StepJobs, scheduled: Any) -> None:
        """Add the saves of requests whose prompt this step completes, and whether it computes anything."""
        jobs.idle = scheduled.total_num_scheduled_tokens == 0
        following = self._followed.values()
        jobs.only_loads = jobs.idle and bool(following) and all(followed.loads for followed in following)
        before = {new.req_id: new.num_computed_tokens for new in scheduled.scheduled_new_reqs}
        cached = scheduled.scheduled_cached_reqs
        before.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for request_id, tokens in scheduled.num_scheduled_tokens.items():
            followed = self._followed.get(request_id)
            if followed is None:
                continue
            prompt = followed.request.num_prompt_tokens
            done = before.get(request_id, 0)
            jobs.prompt_tokens += max(0, min(tokens, prompt - done))
            if done < prompt <= done + tokens and (save := self._save(followed, prompt)) is not None:
                blocks = scheduled.kv_connector_block_state.get_block_ids(request_id)
                jobs.saves_after.append(replace(save, blocks=list(blocks[0])))

    def heard(self, output: Any) -> None:
        """The workers' news of a step."""
        news = output.kv_connector_worker_meta
        if not isinstance(news, WorkerNews):
            return
        if news.off_reason and not self.off_reason:
            self.off_reason = news.off_reason
            self._tally.warn_once(f"off: {news.off_reason}")
        if news.prefill_seconds and self._cache is not None:
            self._cache.prefilled(news.prompt_tokens, news.prefill_seconds)
        for name, amount in news.counters.items():
            self._tally.add(name, amount)
        for request_id, loaded in news.loaded.items():
            followed = self._followed.get(request_id)
            if followed is not None and followed.load is not None:
                self._after_load(followed, followed.load, loaded)

    def finished(self, request: Any, blocks: list[int]) -> dict[str, Any] | None:
        """A request ends; what its response says of the cache. Its blocks stay as they are until the next step."""
        followed = self._followed.pop(request.request_id, None)
        if followed is None:
            return None
        if followed.planning is not None:
            followed.planning.cancel()
        ended = request.get_finished_reason()
        if self._settings.save_answers and ended is not None and ended.name in _ENDED_WELL:
            known = min(request.num_computed_tokens, request.num_tokens - 1)
            if (save := self._save(followed, known)) is not None:
                self._finished.append(replace(save, blocks=list(blocks)))
        return {PARAMETER: followed.told()}

    def close(self) -> None:
        """End the calls."""
        if self._cache is not None:
            self._cache.close()

    def _follow(self, request: Any) -> Followed:
        followed = self._followed.get(request.request_id)
        if followed is None:
            followed = self._followed[request.request_id] = Followed(request)
            self._tally.add("requests")
            followed.reason = self._refused(request)
            if not followed.reason:
                self._read(followed)
        return followed

    def _refused(self, request: Any) -> str:
        if self.off_reason:
            self._tally.add("requests_off")
            return "off"
        if (
            request.lora_request
            or request.mm_features
            or request.prompt_embeds is not None
            or request.prompt_token_ids is None
            or request.pooling_params is not None
            or request.resumable
            or request.skip_reading_prefix_cache
        ):
            self._tally.add("requests_refused")
            return "not_plain_tokens"
        return ""

    def _read(self, followed: Followed) -> None:
        request = followed.request
        try:
            followed.options = parse_request(
                self._settings,
                request.kv_transfer_params,
                request.cache_salt,
                request.prompt_token_ids,
                self._texts.boundaries,
            )
        except BadRequestError as error:
            self._tally.add("requests_refused")
            self._tally.warn_once(str(error))
            followed.reason = error.reason
            return
        if not (followed.options.load or followed.options.save):
            self._tally.add("requests_off")
            followed.reason = "off"

    def _plan(self, followed: Followed, options: RequestOptions, computed: int) -> LoadPlan | None:
        """The plan for a request of which vLLM has `computed` tokens; `None`: it is still being made."""
        cache = self._opened()
        if cache is None:
            return LoadPlan(Extent.NOTHING, reason=self._identity.reason)
        if followed.planning is None or followed.planned_for != computed:
            if followed.plans == _PLANS:
                return LoadPlan(Extent.NOTHING, reason="too_many_plans")
            if len(options.request.token_ids) - 1 - computed < self._settings.min_load_tokens:
                return LoadPlan(Extent.NOTHING, reason="too_short")
            request = replace(options.request, computed_tokens=computed)
            followed.planning = cache.plan_soon(request, self._settings.plan_seconds)
            followed.planned_for = computed
            followed.plans += 1
            followed.asked_at = time.monotonic()
        until = followed.asked_at + self._settings.plan_seconds
        waits = not followed.planning.done() and self._may_wait()
        try:
            return followed.planning.result(timeout=max(0.0, until - time.monotonic()) if waits else _NAP)
        except TimeoutError:
            if time.monotonic() < until:
                return None
        followed.planning.cancel()
        self._tally.add("plans_late")
        return LoadPlan(Extent.NOTHING, reason="deadline")

    def _may_wait(self) -> bool:
        """Whether the scheduler may stand still for a plan: nothing is computed, and it has not done so in this step.

        Returning without one makes a step that computes nothing. On a CPU the engine and its worker ask each other for
        a second after each step without a pause (vLLM's `SpinCondition`), which takes a core from the prefill that
        follows. The plans of requests that came together are made together: only the first is waited for.
        """
        waits, self._waited = not self._waited, True
        return waits and all(followed.loads or followed.plans_only for followed in self._followed.values())

    def _opened(self) -> WorkerCache | None:
        if self._cache is None and self._identity.fingerprint:
            model = ServedModel(self._identity.fingerprint, self._engine.layout)
            self._cache = WorkerCache(model, self._settings.target, self._settings.credentials)
        return self._cache

    def _after_load(self, followed: Followed, load: Load, loaded: Loaded) -> None:
        followed.loaded = loaded
        exact = max(0, min(loaded.tokens_exact, loaded.kv_tokens) - load.begin)
        self._tally.add("tokens_exact", exact)
        self._tally.add("tokens_blended", loaded.kv_tokens - load.begin - exact)
        if loaded.reason:
            self._tally.add("loads_failed")
            followed.reason = loaded.reason
        elif loaded.kv_tokens < load.end:
            self._tally.add("loads_less")
        kept = loaded.kv_tokens
        if kept < load.end:
            # Of a load that brought less, vLLM keeps whole blocks.
            kept = max(load.begin, kept // self._engine.block_size * self._engine.block_size)
        show_cached(followed.request, min(load.begin + exact, kept))

    def _save(self, followed: Followed, end: int) -> Save | None:
        """The save of a request's KV up to a token, its blocks left out; `None`: there is nothing to save."""
        options = followed.options
        if options is None or not options.save or not self._identity.fingerprint or self.off_reason:
            return None
        if followed.blended or not self._engine.whole:
            self._tally.add("saves_skipped")
            return None
        if end - max(followed.stored, followed.sent) < self._settings.min_save_tokens:
            return None
        begin = max(0, followed.stored, followed.sent - _OVERLAP)
        followed.sent = end
        tokens = np.asarray(followed.request.all_token_ids[:end], np.uint32)
        if len(tokens) <= sum((options.request.prefix_tokens or 0, *options.request.document_tokens)):
            return None
        request = replace(options.request, token_ids=tokens, computed_tokens=0)
        return Save(request, [], begin, end, options.document_ids, options.ttl, options.ttl_renewed)
