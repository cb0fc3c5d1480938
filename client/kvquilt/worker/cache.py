"""The worker's side of the cache, for engines that call it from threads of their own."""

import contextvars
import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from kvquilt.aio import DEFAULT_TARGET
from kvquilt.layers import ArrivedLayer
from kvquilt.loop_thread import LoopThread
from kvquilt.worker.calls import RouterCalls
from kvquilt.worker.types import (
    COUNTERS,
    Extent,
    KvToSave,
    LayerSink,
    LoadPlan,
    LoadReport,
    ServedModel,
    WorkerOptions,
    WorkerRequest,
)
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import Part
from kvquilt_rpc.counters import Counters
from kvquilt_rpc.security import Credentials


class WorkerCache:
    """Plans, fetches and saves KV for one model that an engine runs. Safe from any thread; has a thread of its own.

    No fault of the cache is raised: a plan then offers nothing, a fetch is not complete, a save is dropped, each with
    a reason and counted. A router that is gone costs one call its deadline; then nothing is asked until a probe in the
    background reaches it again. Mistakes of the caller (lengths that do not fit, arrays of another shape) are raised.

    Args:
        model: what the engine runs. KV of anything else is refused before it is given out.
        target: the router: `host:port`, `dns:///NAME:PORT` or `unix:PATH`.
        credentials: as whom to call, and TLS; by default as nobody, in clear text.
        options: see there.

    Raises:
        NotFoundError, BadRequestError: credentials that cannot be used.

    Example:
        ```python
        cache = WorkerCache(ServedModel(fingerprint, layout), "router:7410")
        request = WorkerRequest(token_ids)
        plan = cache.plan(request, deadline=0.2)
        if plan.tokens:
            loaded = cache.fetch(request, plan, place_layer, deadline=10)
            computed = loaded.kv_tokens if loaded.complete else 0
        ...
        cache.save(KvToSave(request, layers, exact_tokens=len(token_ids)))
        ```
    """

    def __init__(
        self,
        model: ServedModel,
        target: str = DEFAULT_TARGET,
        credentials: Credentials | None = None,
        *,
        options: WorkerOptions | None = None,
    ) -> None:
        self.model = model
        self.target = target
        self._options = options or WorkerOptions()
        self._counters = Counters(COUNTERS)
        self._thread = LoopThread("kvquilt-worker")
        self._loads = ThreadPoolExecutor(self._options.loads, thread_name_prefix="kvquilt-load")
        try:
            self._calls = self._thread.run(
                RouterCalls.opened(model, target, credentials or Credentials(), self._options, self._counters)
            )
        except BaseException:
            self._thread.close()
            raise

    def __enter__(self) -> "WorkerCache":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def counters(self) -> dict[str, int]:
        """What was done since the start, by name; docs/reference.md says what each counts."""
        return self._counters.snapshot()

    def prefilled(self, tokens: int, seconds: float) -> None:
        """The engine took so long to compute so many tokens of prompts: plans weigh loading against it."""
        self._calls.pace.measured(seconds, tokens, 1)

    def plan(self, request: WorkerRequest, deadline: float) -> LoadPlan:
        """What the cache offers for a prompt.

        Args:
            request: see there.
            deadline: seconds; after them nothing is offered.
        """
        return self.plan_soon(request, deadline).result()

    def plan_soon(self, request: WorkerRequest, deadline: float) -> "Future[LoadPlan]":
        """`plan`, while the caller does something else. The future never fails; it may be cancelled."""
        if self._thread.closed:
            return _done(LoadPlan(Extent.NOTHING, request.computed_tokens, request.computed_tokens, reason="closed"))
        return self._thread.submit(self._calls.plan(request, deadline))

    def fetch(
        self,
        request: WorkerRequest,
        plan: LoadPlan,
        sink: LayerSink,
        deadline: float,
        *,
        kv_heads: tuple[int, int] | None = None,
    ) -> LoadReport:
        """Fetch what a plan offers; layers are given to `sink` in this thread, each as it comes.

        Model, layout and tokens are compared before the first layer is given out. What `sink` raises ends the fetch and
        is raised.

        Args:
            request: the same that was planned.
            plan: see `plan`; of one that offers nothing the report is complete at once, with no tokens.
            sink: takes the layers of the tokens from `plan.first_token` on, which may be fewer than planned.
            deadline: seconds for all of it.
            kv_heads: half-open range of the heads that `sink` gets, for one of several tensor-parallel ranks.

        Raises:
            BadRequestError: a range of heads that the model does not have.
        """
        self._check_heads(kv_heads)
        heads = slice(None) if kv_heads is None else slice(*kv_heads)
        if self._thread.closed or plan.tokens == 0:
            return _nothing_to_load(request, "closed" if self._thread.closed else "")
        arrived: queue.SimpleQueue[ArrivedLayer | None] = queue.SimpleQueue()
        began = time.monotonic()
        future = self._thread.submit(self._calls.fetch(request, plan, arrived.put, deadline))
        future.add_done_callback(lambda _: arrived.put(None))
        try:
            while (layer := arrived.get()) is not None:
                sink(layer.index, layer.keys[heads], layer.values[heads])
        except BaseException:
            future.cancel()
            raise
        if future.cancelled():
            return _nothing_to_load(request, "closed", time.monotonic() - began)
        return future.result()

    def fetch_soon(
        self,
        request: WorkerRequest,
        plan: LoadPlan,
        sink: LayerSink,
        deadline: float,
        *,
        kv_heads: tuple[int, int] | None = None,
    ) -> "Future[LoadReport]":
        """`fetch` in another thread, in which `sink` is called; what it raises is the future's."""
        context = contextvars.copy_context()  # the caller's trace goes on
        return self._loads.submit(context.run, self.fetch, request, plan, sink, deadline, kv_heads=kv_heads)

    def save(self, saving: KvToSave) -> bool:
        """Queue KV to be stored, in the background; whether there was room for it.

        Raises:
            BadRequestError: arrays that are not of the model's layout, or tokens beyond those that are exact.
        """
        check_saving(saving, self.model)
        if self._thread.closed:
            return False
        return self._thread.submit(self._calls.save(saving)).result()

    def settle(self, deadline: float | None = None) -> bool:
        """Wait until all that was queued is saved, or failed.

        Args:
            deadline: seconds; `None`: as long as that takes, which each save's own deadline bounds.

        Returns:
            Whether nothing waits any more.
        """
        return self._thread.closed or self._thread.run(self._calls.settle(deadline))

    def close(self) -> None:
        """End all calls; what waits to be saved is dropped. Does nothing the second time."""
        if self._thread.closed:
            return
        self._thread.run(self._calls.close())
        self._loads.shutdown(wait=True, cancel_futures=True)
        self._thread.close()

    def _check_heads(self, kv_heads: tuple[int, int] | None) -> None:
        fewest = min(layer.kv_heads for layer in self.model.layout.layers)
        if kv_heads is not None and not 0 <= kv_heads[0] < kv_heads[1] <= fewest:
            raise BadRequestError(f"expected a range of {fewest} heads; got {kv_heads}")


def check_saving(saving: KvToSave, model: ServedModel) -> None:
    """Refuse what cannot be saved.

    Raises:
        BadRequestError: see `WorkerCache.save`.
    """
    layout, layers = model.layout, saving.layers
    if len(layers) != len(layout.layers):
        raise BadRequestError(f"expected KV of {len(layout.layers)} layers; got {len(layers)}")
    tokens = layers[0][0].shape[1] if layers[0][0].ndim == 3 else 0
    for index, (shape, arrays) in enumerate(zip(layout.layers, layers, strict=True)):
        for part, array in zip((Part.KEYS, Part.VALUES), arrays, strict=True):
            length, heads, dim = shape.of(part, tokens)
            expected = (heads, length, dim)
            if array.shape != expected or array.dtype != layout.data_type.numpy:
                raise BadRequestError(
                    f"expected {part.name.lower()} of layer {index} as {layout.data_type.value} {expected}; "
                    f"got {array.dtype} {array.shape}"
                )
    end = saving.begin + tokens
    if not 0 <= saving.begin < end <= min(saving.exact_tokens, len(saving.request.token_ids)):
        raise BadRequestError(
            f"expected KV within the {len(saving.request.token_ids)} tokens, of which {saving.exact_tokens} are exact; "
            f"got tokens {saving.begin} to {end}"
        )


def _nothing_to_load(request: WorkerRequest, reason: str, seconds: float = 0.0) -> LoadReport:
    first = request.computed_tokens
    return LoadReport(first, first, reason, Extent.NOTHING, 0, None, seconds, None)


def _done(plan: LoadPlan) -> "Future[LoadPlan]":
    future: Future[LoadPlan] = Future()
    future.set_result(plan)
    return future
