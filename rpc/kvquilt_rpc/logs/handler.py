"""Where a server's log goes, and for how long."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from kvquilt_rpc.logs.limiting import LineLimit
from kvquilt_rpc.logs.lines import Line, as_json, as_text
from kvquilt_rpc.logs.settings import LogSettings

OURS = ("kvquilt", "kvquilt_cache_node", "kvquilt_codec", "kvquilt_kernels", "kvquilt_router", "kvquilt_rpc")
"""Loggers that `log.level` is about. Of others nothing below INFO is written: what it holds nobody has checked."""

log = logging.getLogger(__name__)


class LineHandler(logging.Handler):
    """Writes lines, as many as the limit lets through.

    Args:
        stream: where to.
        line: how.
        lines_per_second: see `LineLimit`.
        clock: seconds that only grow.
    """

    def __init__(
        self, stream: TextIO, line: Line, lines_per_second: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._stream = stream
        self._line = line
        self._limit = LineLimit(lines_per_second, logging.ERROR)
        self._clock = clock

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record, or count it."""
        try:
            now = self._clock()
            self._tell(now)
            dropped = self._limit.admit((record.name, record.lineno, record.levelno), str(record.msg), now)
            if dropped is not None:
                self._write(self._line(record, dropped))
        except Exception:  # noqa: BLE001  whoever logs must not fail
            self.handleError(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """A record that cannot be written; without what it was about, which logging itself would print."""
        said = logging.LogRecord(record.name, record.levelno, "", 0, "a line could not be written", None, None)
        with suppress(ValueError, OSError):
            self._write(self._line(said, 0))

    def close(self) -> None:
        """Say what was dropped and not told yet."""
        self.acquire()
        try:
            with suppress(ValueError, OSError):  # a stream that is closed, or leads nowhere
                self._tell(self._clock(), after=0.0)
        finally:
            self.release()
        super().close()

    def _tell(self, now: float, after: float | None = None) -> None:
        overdue = self._limit.overdue(now) if after is None else self._limit.overdue(now, after)
        for (name, _, level), template, dropped in list(overdue):
            record = logging.LogRecord(name, level, "", 0, "dropped lines like: %s", (template,), None)
            self._write(self._line(record, dropped))

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def adopt() -> None:
    """Let loggers that packages gave handlers of their own write here too."""
    for logger in logging.root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger) and logger.handlers:
            logger.handlers.clear()
            logger.propagate = True


@contextmanager
def logging_to(settings: LogSettings, stream: TextIO | None = None) -> Iterator[None]:
    """Log within this context: to standard error, or another stream, and nowhere else."""
    handler = LineHandler(
        stream or sys.stderr, as_json if settings.format == "json" else as_text, settings.lines_per_second
    )
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    root = logging.getLogger()
    ours = [logging.getLogger(name) for name in OURS]
    before = [(logger, logger.level) for logger in (root, *ours)]
    handlers, root.handlers = root.handlers, [handler]
    root.setLevel(max(level, logging.INFO))
    for logger in ours:
        logger.setLevel(level)
    logging.captureWarnings(True)
    hook, sys.excepthook = sys.excepthook, _unhandled
    try:
        yield
    finally:
        sys.excepthook = hook
        logging.captureWarnings(False)
        for logger, own in before:
            logger.setLevel(own)
        root.handlers = handlers
        handler.close()


def _unhandled(_: type[BaseException], error: BaseException, __: object) -> None:
    log.critical("unforeseen error", exc_info=error)
