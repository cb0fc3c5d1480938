"""A worker's side: places what is loaded into the paged cache, and copies out what is saved."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from kvquilt.integrations.vllm.counting import Tally
from kvquilt.integrations.vllm.engine import ServingEngine
from kvquilt.integrations.vllm.jobs import Load, Loaded, Save, StepJobs, WorkerNews
from kvquilt.integrations.vllm.layouts import PagedLayout
from kvquilt.integrations.vllm.options import ConnectorSettings
from kvquilt.integrations.vllm.streams import DeviceStream
from kvquilt.worker import KvToSave, LoadReport, ServedModel, WorkerCache, WorkerOptions
from kvquilt_codec.errors import KvquiltError
from kvquilt_codec.types import Array, DataType

_LEAST_MEASURED = 64
"""Tokens of prompts in a step, below which its time says little about a token's."""
_NAP = 0.01
"""Most seconds that a step which computes nothing waits for a load: vLLM would make the next one at once, and take the
time from those who load, in this process and on this machine."""
_REST = 1.0
"""The same on a CPU where no request can be computed before a load has ended, for the reason that `SchedulerSide` has.
What comes meanwhile waits too."""


class WorkerSide:
    """Loads and saves for one rank. Loads run in threads of their own, everything else in the engine's.

    Args:
        settings: the operator's.
        engine: what runs.
        tally: counts.
    """

    def __init__(self, settings: ConnectorSettings, engine: ServingEngine, tally: Tally) -> None:
        self._settings = settings
        self.engine = engine
        self._tally = tally
        self._cache: WorkerCache | None = None
        self._layers: dict[int, torch.Tensor] = {}
        self._layout: PagedLayout | None = None
        self._stream: DeviceStream | None = None
        self._threads = ThreadPoolExecutor(settings.loads, thread_name_prefix="kvquilt-place")
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._loading = 0
        self._patience = 0.0
        self._done: set[str] = set()
        self._invalid: set[int] = set()
        self._loaded: dict[str, Loaded] = {}
        self._saver = ThreadPoolExecutor(1, thread_name_prefix="kvquilt-copied")
        self._copied_bytes = 0
        self._began = 0.0
        self._prompt_tokens = 0
        self.off_reason = "the engine has not given its caches yet"

    def register(self, caches: dict[int, torch.Tensor], layout: PagedLayout) -> None:
        """The layers' paged caches, by layer number, and where tokens lie in them."""
        self._layers = caches
        self._layout = layout
        self._stream = DeviceStream(next(iter(caches.values())).device)
        self.off_reason = ""

    def before_step(self, jobs: StepJobs) -> None:
        """Before anything of the step is written to the caches: copy out what finished requests leave, and begin loads.

        The blocks of a load are its own already, and are not zeroed: vLLM does that only for caches that
        `serving_engine` refuses.
        """
        self._began = time.monotonic()
        self._prompt_tokens = jobs.prompt_tokens
        rests = jobs.only_loads and self._stream is not None and not self._stream.asynchronous
        self._patience = _REST if rests else _NAP if jobs.idle else 0.0
        for save in jobs.saves_before:
            self._save(save, jobs.fingerprint)
        for load in jobs.loads:
            with self._lock:
                self._loading += 1
            try:
                self._threads.submit(self._load, load, jobs.fingerprint)
            except RuntimeError:
                self._finish(load, load.begin, "closed")

    def after_step(self, jobs: StepJobs) -> None:
        """After the step's forward pass: copy out the prompts that it completed."""
        for save in jobs.saves_after:
            self._save(save, jobs.fingerprint)

    def finished_loads(self) -> set[str]:
        """Requests whose loads have ended, well or not, since this was last asked."""
        with self._lock:
            if self._patience and self._loading and not self._done:
                self._ended.wait(self._patience)
            done, self._done = self._done, set()
        return done

    def invalid_blocks(self) -> set[int]:
        """Blocks that were not filled; asked after `finished_loads`, has those of all that it told."""
        with self._lock:
            invalid, self._invalid = self._invalid, set()
        return invalid

    def news(self) -> WorkerNews | None:
        """What the scheduler's side should know; `None`: nothing."""
        with self._lock:
            loaded, self._loaded = self._loaded, {}
        news = WorkerNews(loaded, self.off_reason, self._tally.news())
        # On a GPU the step is still being computed when this is asked.
        if self._prompt_tokens >= _LEAST_MEASURED and self._stream is not None and not self._stream.asynchronous:
            news.prompt_tokens, news.prefill_seconds = self._prompt_tokens, time.monotonic() - self._began
        self._prompt_tokens = 0
        return news if news != WorkerNews() else None

    def close(self) -> None:
        """End loads and calls; what waits to be saved gets a moment."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._saver.shutdown(wait=False, cancel_futures=True)
        if self._cache is not None:
            self._cache.close()

    def _opened(self, fingerprint: str) -> WorkerCache:
        with self._lock:
            if self._cache is None:
                options = WorkerOptions(save_bytes=self._settings.save_bytes, loads=self._settings.loads)
                model = ServedModel(fingerprint, self.engine.layout)
                self._cache = WorkerCache(model, self._settings.target, self._settings.credentials, options=options)
            return self._cache

    def _load(self, load: Load, fingerprint: str) -> None:
        """Fetch and place; whatever happens, the request is told to be finished: else it would wait for ever."""
        placed, reason, report = load.begin, "internal", None
        try:
            if self._layout is None or self._stream is None:
                reason = "off"
            else:
                report = self._fetch(load, fingerprint, self._layout, self._stream)
                placed, reason = (report.kv_tokens, "") if report.complete else (load.begin, report.reason)
        except KvquiltError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001  # the thread's outermost place
            self._tally.fault("load", error)
        finally:
            self._finish(load, placed, reason, report)

    def _fetch(self, load: Load, fingerprint: str, layout: PagedLayout, stream: DeviceStream) -> LoadReport:
        slots = self._slots(load.blocks, load.begin, load.end)

        def place(layer: int, keys: Array, values: Array) -> None:
            if layer not in self._layers:
                return  # another pipeline stage's
            with stream.beside():
                layout.place(self._layers[layer], _tensor(keys), _tensor(values), slots[: keys.shape[1]])

        report = self._opened(fingerprint).fetch(
            load.request, load.plan, place, self._settings.load_seconds, kv_heads=self.engine.kv_heads
        )
        stream.finish()
        return report

    def _finish(self, load: Load, placed: int, reason: str, report: LoadReport | None = None) -> None:
        exact, router_request_id = placed, ""
        if report is not None and report.report is not None:
            router_request_id = report.report.request_id
            if not report.exact:
                exact = min(placed, load.plan.exact_tokens)
        with self._lock:
            if placed < load.end:
                self._invalid.update(self.engine.blocks_of(load.blocks, placed, load.end))
            self._loaded[load.request_id] = Loaded(placed, reason, exact, router_request_id)
            self._done.add(load.request_id)
            self._loading -= 1
            self._ended.notify()

    def _save(self, save: Save, fingerprint: str) -> None:
        """Copy KV within the device, which is all that the engine waits for; a thread takes it from there."""
        if self._layout is None or self._stream is None or not fingerprint:
            return
        size = self.engine.layout.nbytes(save.end - save.begin)
        with self._lock:
            room = self._copied_bytes + size <= self._settings.save_bytes
            self._copied_bytes += size if room else 0
        if not room:
            self._tally.add("saves_dropped")
            return
        slots = self._slots(save.blocks, save.begin, save.end)
        copies = [half for number in sorted(self._layers) for half in self._layout.take(self._layers[number], slots)]
        self._saver.submit(self._queue, save, fingerprint, copies, self._stream.mark(), size)

    def _queue(self, save: Save, fingerprint: str, copies: list[torch.Tensor], after: Any, size: int) -> None:
        try:
            arrays = [_array(copy) for copy in self._stream.to_host(copies, after)] if self._stream else []
            layers = list(zip(arrays[::2], arrays[1::2], strict=True))
            saving = KvToSave(save.request, layers, save.end, save.begin, save.document_ids, save.ttl, save.ttl_renewed)
            kept = self._opened(fingerprint).save(saving)
            self._tally.add("saves" if kept else "saves_dropped")
            self._tally.add("tokens_saved", save.end - save.begin if kept else 0)
        except Exception as error:  # noqa: BLE001  # the thread's outermost place
            self._tally.fault("save", error)
        finally:
            with self._lock:
                self._copied_bytes -= size

    def _slots(self, blocks: list[int], begin: int, end: int) -> torch.Tensor:
        size = self.engine.block_size
        tokens = torch.arange(begin, end)
        return torch.tensor(blocks)[tokens // size] * size + tokens % size


def _tensor(array: Array) -> torch.Tensor:
    """A view; bfloat16 goes as 16-bit words, which NumPy and torch both know."""
    if array.dtype == np.float32:
        return torch.from_numpy(array)
    return torch.from_numpy(array.view(np.int16)).view(getattr(torch, array.dtype.name))


def _array(tensor: torch.Tensor) -> Array:
    """The same the other way."""
    tensor = tensor.contiguous()
    if tensor.dtype == torch.float32:
        return tensor.numpy()
    name = str(tensor.dtype).removeprefix("torch.")
    return tensor.view(torch.int16).numpy().view(DataType(name).numpy)
