"""HF Transformers: caches filled from a router, or from a store in this process, for `model.generate(**filled)`.

Needs `pip install kvquilt[model]`. Start with `KvquiltCache`.
"""

import atexit
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from kvquilt import wire
from kvquilt.aio import DEFAULT_TARGET
from kvquilt.integrations.huggingface.batching import batch
from kvquilt.integrations.huggingface.filled import FilledBatch, FilledCache
from kvquilt.integrations.huggingface.loading import load
from kvquilt.integrations.huggingface.prompts import Prompts
from kvquilt.integrations.huggingface.saving import savings
from kvquilt.sync import Client
from kvquilt.types import Segment
from kvquilt.worker import Extent, ServedModel, WorkerCache, WorkerRequest
from kvquilt_codec.errors import BadRequestError, UnsupportedModelError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import Engine
from kvquilt_router.engine.fingerprint import fingerprint
from kvquilt_router.policies import policy_by_name
from kvquilt_rpc.security import Credentials

__all__ = ["Extent", "FilledBatch", "FilledCache", "KvquiltCache"]

log = logging.getLogger(__name__)

_FILLS_AT_ONCE = 4
_LAST_SECONDS = 10.0
"""How long a close waits for what is to be saved: a slow router must not hold up a script's end."""

_Closing = list[Callable[[], object]]
_open: list[_Closing] = []
"""Of every object that is not closed, also where nobody holds it: its threads and its store are there still."""


class KvquiltCache:
    """Fills caches of one model, and saves what it computed. A context manager; else `close` it, or it is at exit.

    A fault of the cache never fails a request: the prompt then has to be computed in full, and `fallback_reason` says
    why. Faults of the request itself (no segments, an unknown policy) are raised.

    Args:
        model: a Transformers causal LM, on one device.
        tokenizer: its tokenizer, or `None` where prompts are given as token ids.
        router: that serves this very model, `host:port`; `local` needs none.
        credentials: as whom to call it.
        extent: how much of a prompt's KV is asked for, unless a fill says otherwise.
        deadline: seconds that a fill may take before it falls back.
        plan_deadline: seconds of them that the router may take to say what it has.
        served: the model's fingerprint and layout, where they are known: to hash all weights takes seconds.

    Attributes:
        client: of the router: `prefetch`, `why`, `status`, `forget`.
        worker: what plans, fetches and saves; its `counters()` tell what was done.

    Raises:
        UnsupportedModelError: a model over several devices, or one whose KV cannot be cut into chunks.

    Example:
        ```python
        cache = KvquiltCache.local(model, tokenizer)
        filled = cache.fill([passage_1, passage_2, "Question: ..."])
        output = model.generate(**filled)
        cache.save(filled, output)
        ```
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any | None,
        router: str = DEFAULT_TARGET,
        *,
        credentials: Credentials | None = None,
        extent: Extent = Extent.AUTO,
        deadline: float = 30.0,
        plan_deadline: float = 2.0,
        served: ServedModel | None = None,
    ) -> None:
        devices = set((getattr(model, "hf_device_map", None) or {}).values())
        if len(devices) > 1:
            raise UnsupportedModelError(
                f"expected a model on one device; got one on {sorted(map(str, devices))}: load it without device_map"
            )
        self._model = model
        self._prompts = Prompts(tokenizer)
        self._extent = extent
        self._deadline = deadline
        self._plan_deadline = plan_deadline
        served = served or ServedModel(fingerprint(model, tokenizer).digest, Engine(model).traits.layout)
        self.worker = WorkerCache(served, router, credentials)
        self.client = Client(router, credentials)
        self._closing: _Closing = [partial(self.worker.settle, _LAST_SECONDS), self.worker.close, self.client.close]
        _open.append(self._closing)

    @classmethod
    def local(
        cls,
        model: Any,
        tokenizer: Any | None,
        path: Path | str | None = None,
        *,
        capacity: str | int = "10GiB",
        extent: Extent = Extent.AUTO,
        deadline: float = 30.0,
        **settings: Any,
    ) -> "KvquiltCache":
        """A cache without any server: store and router are in this process and use the model that is given.

        One process at a time has a store open; several share one through `kvquilt serve`. Other threads may go on to
        use the model. Only fills and prefetches compute with it; nothing is stored that nobody asked for.

        Args:
            model: as above, in evaluation mode, with sdpa or eager attention.
            tokenizer: as above.
            path: folder of the store; by default that of `kvquilt serve`.
            capacity: byte cap of the store; what was useful least makes room.
            extent: as above.
            deadline: as above.
            settings: of the router (`kvquilt config show`), without `router.` before them.

        Raises:
            BadRequestError: a model in training mode; a setting that there is not.
            UnavailableError: another process has the store open (reason `store_locked`), or it cannot be written.
            UnsupportedModelError: chunks of this model cannot be moved (see `kvquilt_router.engine.Engine`), or it
                computes attention in another way.
        """
        from kvquilt.integrations.huggingface import local  # cache node and router: for those who want them here
        from kvquilt_router.engine.model import prepare

        local.check(model)
        node, router = local.settings(None if path is None else Path(path).expanduser(), capacity, settings)
        loaded = prepare(model, tokenizer, "local")
        servers = local.LocalServers(loaded, node, router)
        try:
            served = ServedModel(loaded.fingerprint, loaded.engine.traits.layout)
            cache = cls(model, tokenizer, servers.address, extent=extent, deadline=deadline, served=served)
        except BaseException:
            servers.close()
            raise
        cache._closing.append(servers.close)
        cache._say_what_is_blended()
        return cache

    def __enter__(self) -> "KvquiltCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Save what waits, and close what this object opened: its calls, and of a local cache servers and store."""
        _closed(self._closing)

    def token_ids(self, segments: Sequence[Segment], shared_prefix: Segment | None = None) -> TokenIds:
        """The whole prompt that a fill of these segments is for; arguments and errors as in `fill`."""
        return self._prompts.of(segments, shared_prefix).token_ids

    def fill(self, segments: Sequence[Segment], *, shared_prefix: Segment | None = None, **options: Any) -> FilledCache:
        """A cache for one prompt.

        Args:
            segments: documents in prompt order, the question last; empty documents are left out.
            shared_prefix: what the prompt begins with; by default the model's chat template frames the prompt.
            options: `extent`, `policy`, `recompute_ratio`, `level`, `max_kl`, `namespace` as in `WorkerRequest`.

        Raises:
            BadRequestError: the request cannot be right, whatever computes it.
        """
        return self._load(self._prompts.of(segments, shared_prefix, **self._options(options)))

    def fill_plain(self, prompt: str | Sequence[int], **options: Any) -> FilledCache:
        """A cache for a prompt without boundaries, as it goes to the model: known text is found in it at any offset.

        Args:
            prompt: the whole of it, template and all, as text or token ids.
            options: as in `fill`.

        Raises:
            BadRequestError: an empty prompt, or options that cannot be right.
        """
        return self._load(self._prompts.plain(prompt, **self._options(options)))

    def fill_chat(self, messages: Sequence[Mapping[str, str]], **options: Any) -> FilledCache:
        """`fill_plain` of a conversation: the model's chat template over `messages` (of `role` and `content`)."""
        return self._load(self._prompts.chat(messages, **self._options(options)))

    def fill_many(
        self, prompts: Sequence[Sequence[Segment]], *, shared_prefix: Segment | None = None, **options: Any
    ) -> FilledBatch:
        """A cache for several prompts, which `generate` then answers together.

        What the cache lacks of some of the prompts is computed here, one by one; if it helps with none, by `generate`.

        Args:
            prompts: segments of each, as in `fill`.
            shared_prefix: of all of them, as in `fill`.
            options: as in `fill`.

        Raises:
            BadRequestError: no prompts, or one that cannot be right.
        """
        if isinstance(prompts, str) or not prompts:
            raise BadRequestError("expected a sequence of prompts, each of them a sequence of segments; got none")
        chosen = self._options(options)
        requests = [self._prompts.of(segments, shared_prefix, **chosen) for segments in prompts]
        with ThreadPoolExecutor(_FILLS_AT_ONCE, "kvquilt-fill") as pool:
            return batch(self._model, list(pool.map(self._load, requests)), self._prompts.padding_id)

    def save(self, filled: FilledCache | FilledBatch, output: Any) -> int:
        """Store what `generate` computed, in the background, so that a prompt that begins with it finds it.

        That is prompt and answer, in whole token blocks. What was computed over chunks whose context had changed is
        never stored.

        Args:
            filled: what `generate` was given, after it.
            output: what it returned.

        Returns:
            Tokens that were queued; 0: all is stored already, nothing may be, or there is no room in the queue.

        Raises:
            BadRequestError: the output is not one answer to each of these prompts.
        """
        ends = self._model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        return sum(s.exact_tokens - s.begin for s in savings(filled, output, ends) if self.worker.save(s))

    def settle(self, deadline: float | None = None) -> bool:
        """Wait until what was queued is saved, or could not be; whether it was within so many seconds."""
        return self.worker.settle(deadline)

    def _options(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a request, checked here: what no router would take is the caller's mistake."""
        known = {"extent", "policy", "recompute_ratio", "level", "max_kl", "namespace"}
        if strange := given.keys() - known:
            raise BadRequestError(
                f"expected options among {', '.join(sorted(known))}; got {', '.join(sorted(strange))}"
            )
        if given.get("policy") is not None:
            policy_by_name(given["policy"])
        wire.level_fields(given.get("level"))
        ratio, kl = given.get("recompute_ratio"), given.get("max_kl")
        if (ratio is not None and not 0 <= ratio <= 1) or (kl is not None and not kl > 0):
            raise BadRequestError(f"expected recompute_ratio in 0..1 and max_kl above 0; got {ratio} and {kl}")
        return {"extent": self._extent, **given}

    def _load(self, request: WorkerRequest) -> FilledCache:
        return load(
            self.worker,
            request,
            self._model.device,
            max_tokens=getattr(self._model.config.get_text_config(), "max_position_embeddings", None),
            plan_deadline=min(self._plan_deadline, self._deadline),
            deadline=self._deadline,
        )

    def _say_what_is_blended(self) -> None:
        (served,) = self.client.models()
        if served.gate.missing_reason:
            log.warning("kvquilt uses chunks in their exact context only: %s", served.gate.missing_reason)


def _closed(closing: _Closing) -> None:
    """Do what ends an object's work, once."""
    while closing:
        closing.pop(0)()
    _open[:] = [other for other in _open if other is not closing]


def _close_all() -> None:
    for closing in _open[:]:
        _closed(closing)


# Functions of `atexit` come too late: by then no executor takes work any more, and closing a store is work for one.
getattr(threading, "_register_atexit", atexit.register)(_close_all)
