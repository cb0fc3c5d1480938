"""Tasks that LMCache submits: each ends once, with a result that is taken once, and an event that says so."""

import itertools
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

from lmcache.v1.platform import create_event_notifier

Result = TypeVar("Result")


def task_ids() -> Iterator[int]:
    """Numbers of tasks, unique within an adapter."""
    return itertools.count(1)


class Board(Generic[Result]):
    """Tasks of one kind; safe from any thread.

    Args:
        ids: numbers of tasks, shared with other boards.
    """

    def __init__(self, ids: Iterator[int]) -> None:
        self._ids = ids
        self._lock = threading.Lock()
        self._event = create_event_notifier()
        self._running: dict[int, Result] = {}
        self._done: dict[int, Result] = {}
        self._closed = False

    @property
    def fd(self) -> int:
        """File descriptor of the event."""
        return int(self._event.fileno())

    def begin(self, failed: Result) -> int:
        """A new task, which gives `failed` if it fails."""
        with self._lock:
            task = next(self._ids)
            self._running[task] = failed
            return task

    def complete(self, task: int, result: Result | None) -> None:
        """A task has ended; `None`: it failed. Only the first end of a task counts."""
        with self._lock:
            if task in self._running:
                failed = self._running.pop(task)
                # First the result, then the event: who is woken finds it.
                self._done[task] = failed if result is None else result
                if not self._closed:
                    self._event.notify()

    def take(self, task: int) -> Result | None:
        """The result of a task that has ended, once."""
        with self._lock:
            return self._done.pop(task, None)

    def take_all(self) -> dict[int, Result]:
        """The results of all tasks that have ended, once."""
        with self._lock:
            done, self._done = self._done, {}
            return done

    def close(self) -> None:
        """End what runs as failed, and close the event."""
        for task in list(self._running):
            self.complete(task, None)
        with self._lock:
            self._closed = True
            self._event.close()
