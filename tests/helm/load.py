"""What asks a release's routers: prompts whose KV is compared with a full prefill's, and documents to store."""

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from drills.tiny_model import FullPrefill
from kvquilt import Client, Credentials, Document
from kvquilt_router.engine import LoadedModel

PREFIX, QUESTION = list(range(11, 27)), [5, 6, 7, 8]
OPTIONS = {"shared_prefix": PREFIX, "level": "lossless"}
TOKENS = range(120, 180, 20)
"""Lengths of the texts that are asked about."""
STORED_TOKENS = 40
PAUSE = 0.3
"""Mean seconds between the requests of one thread: routers compute what is to be stored when nothing else is asked."""
DEADLINE = 300.0


@dataclass(frozen=True)
class Asked:
    """A text, and what a prompt with it has to give."""

    text: list[int]
    expected: FullPrefill


def asked(model: LoadedModel, vocabulary: range) -> list[Asked]:
    """Texts drawn for a model."""
    draw = np.random.default_rng(7)
    texts = [draw.integers(vocabulary.start, vocabulary.stop, length).tolist() for length in TOKENS]
    return [Asked(text, FullPrefill(model, [*PREFIX, *text, *QUESTION[:-1]])) for text in texts]


class Load:
    """Threads that ask, each over a connection of its own.

    Attributes:
        done: requests by kind: `blend`, and of those `hit` that took all of the text from the cache; `prefetch`.
        failed: what was raised, or was not stored.
        difference: the largest one of a blend's KV from a full prefill's.
        stored: documents that were acknowledged.
    """

    def __init__(self, target: str, credentials: Credentials | None, texts: Sequence[Asked], vocabulary: range) -> None:
        self._target = target
        self._credentials = credentials
        self.texts = texts
        self._vocabulary = vocabulary
        self._stop = threading.Event()
        self.done: Counter[str] = Counter()
        self.failed: list[str] = []
        self.difference = 0.0
        self.stored: list[Document] = []

    def client(self) -> Client:
        """One more connection."""
        return Client(self._target, credentials=self._credentials)

    def blend(self, client: Client, asked: Asked) -> bool:
        """One request; whether all of the text came from the cache."""
        kv = client.blend([asked.text, QUESTION], policy="none", deadline=DEADLINE, **OPTIONS)
        hit = kv.report.tokens_exact >= len(asked.text)
        self.difference = max(self.difference, asked.expected.difference(kv))
        self.done["blend"] += 1
        self.done["hit"] += hit
        return hit

    def found(self, client: Client, document: Document) -> bool:
        """Whether a document is stored."""
        plan = client.plan([document.content, QUESTION], policy="none", **OPTIONS)
        return all(chunk.variant is not None for chunk in plan.chunks)

    def prefetch(self, client: Client, document: Document) -> None:
        """Store one document."""
        (progress,) = client.prefetch([document], deadline=DEADLINE, **OPTIONS)
        if progress.failed:
            self.failed.append(f"{document.document_id} was not stored: {progress.failure_reason}")
        self.stored.append(document)
        self.done["prefetch"] += 1

    @contextmanager
    def running(self, blending: int = 3) -> Iterator[None]:
        """Ask until the end of the context."""
        self._stop.clear()
        self.failed.clear()  # what failed before was said before
        threads = [threading.Thread(target=self._blending, args=(number,)) for number in range(blending)]
        threads.append(threading.Thread(target=self._prefetching))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(2 * DEADLINE)

    def more(self, hits: int = 10, stored: int = 2) -> None:
        """Wait until so many more texts were served, and stored; the test's own timeout is the limit."""
        wanted = self.done["hit"] + hits, self.done["prefetch"] + stored
        while self.done["hit"] < wanted[0] or self.done["prefetch"] < wanted[1]:
            assert not self.failed, self.failed[:5]
            self._stop.wait(0.02)

    def _blending(self, number: int) -> None:
        asked = self.texts[number % len(self.texts)]
        self._repeat(lambda client: self.blend(client, asked))

    def _prefetching(self) -> None:
        draw = np.random.default_rng()

        def store(client: Client) -> None:
            tokens = draw.integers(self._vocabulary.start, self._vocabulary.stop, STORED_TOKENS).tolist()
            self.prefetch(client, Document(f"document-{len(self.stored)}", tokens))

        self._repeat(store)

    def _repeat(self, ask: Callable[[Client], object]) -> None:
        with self.client() as client:
            while not self._stop.wait(random.expovariate(1 / PAUSE)):
                try:
                    ask(client)
                except Exception as error:  # noqa: BLE001  whatever it is, it is a request that failed
                    self.failed.append(repr(error))
