"""A `kvquilt serve` in a process of its own, on free ports."""

import json
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from kvquilt_codec.errors import UnavailableError


@contextmanager
def exiting_on_sigterm() -> Iterator[None]:
    """Let SIGTERM end the block as an exit does, so that what it began is ended too. Only in the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def serving(data_dir: Path, settings: Sequence[str] = (), *, grace_seconds: float = 60.0) -> Iterator[str]:
    """Run a server until the block ends; yields the router's address. The store is `data_dir`.

    Raises:
        UnavailableError: the server ended before it was ready; the message holds its last words.
    """
    flags = ["router.port=0", "node.port=0", f"node.path={data_dir}", *settings]
    command = [
        sys.executable,
        "-m",
        "kvquilt",
        "serve",
        "--json",
        *(word for flag in flags for word in ("--set", flag)),
    ]
    with exiting_on_sigterm(), tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)  # noqa: S603  our own command
        try:
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                log.seek(0)
                raise UnavailableError(f"expected a running server; it ended: {log.read()[-2000:]}")
            yield str(json.loads(line)["router"])
        finally:
            process.terminate()
            try:
                process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            if process.stdout is not None:
                process.stdout.close()
