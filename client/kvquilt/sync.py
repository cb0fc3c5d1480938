"""The synchronous client: the asynchronous one, run by an event loop in a thread of its own."""

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType
from typing import Any, TypeVar

from kvquilt.aio import DEFAULT_TARGET, AsyncClient
from kvquilt.explanations import MissReport
from kvquilt.loop_thread import LoopThread
from kvquilt.receipts import ForgetReport, LiftReport, PinReport
from kvquilt.served import ServedRequest
from kvquilt.states import ModelInfo, Status
from kvquilt.types import BlendedKV, Document, PlanReport, PrefetchProgress, Segment
from kvquilt_rpc.security import Credentials

Result = TypeVar("Result")


class Client:
    """Calls a router. Use it as a context manager, or call `close`. Arguments and errors as in `AsyncClient`.

    Example:
        ```python
        with Client() as client:
            for done in client.prefetch([Document("readme", text)]):
                print(done.document_id, done.stored)
            kv = client.blend([text, "What is this about?"])
        ```
    """

    def __init__(self, target: str = DEFAULT_TARGET, credentials: Credentials | None = None) -> None:
        self.target = target
        self._thread = LoopThread("kvquilt-client")
        self._run = self._thread.run
        try:
            self._client = self._run(_opened(target, credentials))
        except BaseException:
            self._thread.close()
            raise

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the channel and end the thread. Does nothing the second time."""
        if self._thread.closed:
            return
        self._run(self._client.close())
        self._thread.close()

    def prefetch(self, documents: Sequence[Document], **options: Any) -> Iterator[PrefetchProgress]:
        """See `AsyncClient.prefetch`."""
        return self._iterate(self._client.prefetch(documents, **options))

    def blend(self, segments: Sequence[Segment], **options: Any) -> BlendedKV:
        """See `AsyncClient.blend`."""
        return self._run(self._client.blend(segments, **options))

    def blend_plain(self, prompt: Segment, **options: Any) -> BlendedKV:
        """See `AsyncClient.blend_plain`."""
        return self._run(self._client.blend_plain(prompt, **options))

    def plan(self, segments: Sequence[Segment], **options: Any) -> PlanReport:
        """See `AsyncClient.plan`."""
        return self._run(self._client.plan(segments, **options))

    def why(self, request_id: str = "", **options: Any) -> MissReport:
        """See `AsyncClient.why`."""
        return self._run(self._client.why(request_id, **options))

    def forget(self, *document_ids: str, everything: bool = False, deadline: float = 60.0) -> ForgetReport:
        """See `AsyncClient.forget`."""
        return self._run(self._client.forget(*document_ids, everything=everything, deadline=deadline))

    def pin(
        self, *document_ids: str, seconds: float | None = None, expiring: bool = False, deadline: float = 60.0
    ) -> PinReport:
        """See `AsyncClient.pin`."""
        return self._run(self._client.pin(*document_ids, seconds=seconds, expiring=expiring, deadline=deadline))

    def unpin(self, *document_ids: str, deadline: float = 60.0) -> PinReport:
        """See `AsyncClient.unpin`."""
        return self._run(self._client.unpin(*document_ids, deadline=deadline))

    def lift(self, policy: str, recompute_ratio: float, context: str, level: str, **options: Any) -> LiftReport:
        """See `AsyncClient.lift`."""
        return self._run(self._client.lift(policy, recompute_ratio, context, level, **options))

    def models(self, *, deadline: float = 10.0) -> tuple[ModelInfo, ...]:
        """See `AsyncClient.models`."""
        return self._run(self._client.models(deadline=deadline))

    def status(self, *, deadline: float = 10.0) -> Status:
        """See `AsyncClient.status`."""
        return self._run(self._client.status(deadline=deadline))

    def requests(self, request_id: str = "", *, limit: int = 32, deadline: float = 10.0) -> tuple[ServedRequest, ...]:
        """See `AsyncClient.requests`."""
        return self._run(self._client.requests(request_id, limit=limit, deadline=deadline))

    def _iterate(self, stream: AsyncIterator[Result]) -> Iterator[Result]:
        end = object()

        async def step() -> Any:
            return await anext(stream, end)

        while (item := self._run(step())) is not end:
            yield item


async def _opened(target: str, credentials: Credentials | None) -> AsyncClient:
    """A client made inside the loop that will run it, as grpc.aio demands."""
    return AsyncClient(target, credentials)
