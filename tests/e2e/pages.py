"""Routers with a status page."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kvquilt_router.engine import LoadedModel
from tests.stack import serve

OPTIONS = {"background": False, "warm_up_passages": 0, "chunk_tokens": 256}


class _Urls(logging.Handler):
    """Where pages are, as the log says."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.urls: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "status page is on" in record.getMessage():
            self.urls.append(record.getMessage().rsplit(" ", 1)[1])


@contextmanager
def paged(model: LoadedModel, data_dir: Path, **settings: object) -> Iterator[tuple[str, str]]:
    """Router and node in this process; yields the router's address and the page's."""
    log, urls = logging.getLogger("kvquilt_router.status_page.serving"), _Urls()
    log.addHandler(urls)
    log.setLevel(logging.INFO)
    try:
        with serve(model, data_dir, **{"status_port": 0, **OPTIONS, **settings}) as router:
            yield router, urls.urls[0]
    finally:
        log.removeHandler(urls)
