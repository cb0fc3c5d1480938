"""Prefetching beside a pipeline: documents are offered as they are retrieved, and nothing waits for them."""

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from types import TracebackType
from typing import Any

import numpy as np

from kvquilt.sync import Client
from kvquilt.types import Document, PrefetchProgress, Public
from kvquilt_codec.errors import BadRequestError, KvquiltError

log = logging.getLogger(__name__)

_BATCH = 16
"""Documents asked for at once: few, so that the first ones are ready early and `close` has not long to wait."""
_REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class PrefetchCounts:
    """What became of the documents that a `Prefetcher` was offered.

    Attributes:
        stored: of which chunks were computed and stored now.
        present: that were stored before.
        failed: that could not be stored, or not as a whole.
        fresh: not asked about, since they had been a moment ago.
        dropped: not asked about, since too many waited, or the prefetcher was closed.
    """

    stored: int = 0
    present: int = 0
    failed: int = 0
    fresh: int = 0
    dropped: int = 0


class Prefetcher:
    """Prefetches documents in a thread of its own, while a pipeline goes on.

    `offer` never waits and never raises a fault of the cache: what cannot be stored is counted, and a later request
    computes that text. Use it as a context manager, or call `close`; the client stays the caller's.

    Args:
        client: connected to a router.
        waiting: most documents that wait; further ones are dropped.
        fresh_seconds: for how long a document that was found or stored is not asked about again.
        options: `shared_prefix`, `level`, `corpus`, `warm_up`, `model`, `deadline` as in `AsyncClient.prefetch`. They
            must be those of the requests: another shared prefix means other objects.

    Example:
        ```python
        with Client() as client, Prefetcher(client) as prefetcher:
            prefetcher.offer(candidates)  # as soon as they are retrieved
            best = rerank(question, candidates)  # meanwhile their KV is looked up, or computed and stored
        ```
    """

    def __init__(self, client: Client, *, waiting: int = 256, fresh_seconds: float = 60.0, **options: Any) -> None:
        if waiting < 1 or fresh_seconds < 0:
            raise BadRequestError(
                f"expected room for at least one document and no negative time; got {waiting=}, {fresh_seconds=}"
            )
        self._client = client
        self._limit = waiting
        self._fresh_seconds = fresh_seconds
        self._options = options
        self._changed = threading.Condition()
        self._waiting: deque[Document] = deque()
        self._busy = False
        self._closed = False
        self._warned = False
        self._counts = PrefetchCounts()
        self._fresh: OrderedDict[bytes, float] = OrderedDict()
        self._thread = threading.Thread(target=self._work, name="kvquilt-prefetcher", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Prefetcher":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def counts(self) -> PrefetchCounts:
        """Sums since the beginning."""
        with self._changed:
            return self._counts

    def offer(self, documents: Iterable[Document]) -> None:
        """Have these prefetched, in this order, after those that wait. Empty documents are left out."""
        now = time.monotonic()
        offered = [document for document in documents if len(document.content)]
        with self._changed:
            wanted = [document for document in offered if self._fresh.get(_digest(document), now) <= now]
            taken = [] if self._closed else wanted[: max(self._limit - len(self._waiting), 0)]
            self._waiting += taken
            self._count(fresh=len(offered) - len(wanted), dropped=len(wanted) - len(taken))
            self._changed.notify_all()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing that was offered is left to do; whether it is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._busy, timeout)

    def close(self) -> None:
        """Give up what waits and end the thread after the document that is being stored. Again: does nothing."""
        with self._changed:
            self._closed = True
            self._count(dropped=len(self._waiting))
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next():
            try:
                self._prefetch(batch)
            except KvquiltError as error:
                self._failed(len(batch), error)

    def _next(self) -> list[Document]:
        """Some that wait, no two of one id; none when it is closed."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting or self._closed)
            batch: dict[str, Document] = {}
            while self._waiting and len(batch) < _BATCH and self._waiting[0].document_id not in batch:
                document = self._waiting.popleft()
                batch[document.document_id] = document
            self._busy = bool(batch)
            return list(batch.values())

    def _prefetch(self, batch: list[Document]) -> None:
        left = {document.document_id: document for document in batch}
        try:
            for done in self._client.prefetch(batch, **self._options):
                self._done(left.pop(done.document_id, None), done)
                if self._closed:
                    break
        except BadRequestError as error:
            if len(batch) == 1:
                raise
            # One of them cannot be right. The others are asked for without it.
            log.debug("a batch of documents was refused: %s", error)
            for document in left.values():
                try:
                    self._prefetch([document])
                except KvquiltError as single:
                    self._failed(1, single)
        except KvquiltError as error:
            self._failed(len(left), error)
        else:
            with self._changed:
                self._count(dropped=len(left))

    def _done(self, document: Document | None, progress: PrefetchProgress) -> None:
        with self._changed:
            if progress.failed:
                self._count(failed=1)
            else:
                # The shared prefix counts as a chunk, and is computed for the first document only.
                self._count(**{"stored" if progress.stored else "present": 1})
                if document is not None:
                    self._remember(_digest(document))

    def _remember(self, digest: bytes) -> None:
        self._fresh[digest] = time.monotonic() + self._fresh_seconds
        self._fresh.move_to_end(digest)
        while len(self._fresh) > _REMEMBERED:
            self._fresh.popitem(last=False)

    def _failed(self, documents: int, error: KvquiltError) -> None:
        with self._changed:
            self._count(failed=documents)
            log.log(logging.DEBUG if self._warned else logging.WARNING, "documents were not prefetched: %s", error)
            self._warned = True

    def _count(self, **more: int) -> None:
        sums = {name: getattr(self._counts, name) + number for name, number in more.items()}
        self._counts = replace(self._counts, **sums)


def _digest(document: Document) -> bytes:
    """Of id and content: what changed is not fresh."""
    content = document.content.content if isinstance(document.content, Public) else document.content
    name = document.document_id.encode(errors="surrogatepass")
    data = content.encode(errors="surrogatepass") if isinstance(content, str) else np.asarray(content, np.int64).data
    return blake2b(data, digest_size=16, key=blake2b(name, digest_size=32).digest()).digest()
