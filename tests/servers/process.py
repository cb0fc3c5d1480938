"""A server process that tests and drills start, kill, pause and start again."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS = 30.0


def free_ports(count: int, *, with_twin: int = 0) -> list[int]:
    """Ports that are free now; with `with_twin`, the ports that much above are free too."""
    with ExitStack() as stack:
        found: list[int] = []
        while len(found) < count:
            one = stack.enter_context(socket.socket())
            one.bind((HOST, 0))
            port = one.getsockname()[1]
            if with_twin:
                try:
                    stack.enter_context(socket.socket()).bind((HOST, port + with_twin))
                except (OSError, OverflowError):
                    continue
            found.append(port)
        return found


def listens(port: int, address: str = HOST) -> bool:
    """Whether somebody accepts connections."""
    with suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


@dataclass
class Process:
    """A server process that can be killed, paused and started again with the same arguments and folder."""

    arguments: Sequence[str]
    folder: Path
    ready: Callable[[], bool]
    environment: dict[str, str] = field(default_factory=dict)
    start_seconds: float = START_SECONDS
    _popen: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        if self._popen is None:
            raise RuntimeError("expected a running process; it was killed")
        return self._popen.pid

    def start(self) -> None:
        """Start, and return when it answers."""
        with (self.folder / "output").open("ab") as output:
            self._popen = subprocess.Popen(
                self.arguments,
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "HOME": str(self.folder), **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for whoever started it
            )
        give_up = time.monotonic() + self.start_seconds
        while not self.ready():
            if self._popen.poll() is not None or time.monotonic() > give_up:
                self.kill()
                said = (self.folder / "output").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"expected {self.arguments[0]} to start; it said: {said}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End it as a crash does (SIGKILL)."""
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None

    def pause(self) -> None:
        """Let it answer no more (SIGSTOP); returns when all its threads stand still."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        os.kill(self.pid, signal.SIGCONT)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()


@contextmanager
def running(process: Process) -> Iterator[Process]:
    process.folder.mkdir(parents=True, exist_ok=True)
    process.start()
    try:
        yield process
    finally:
        process.kill()
