"""The program's commands: those that end in this process, servers and what starts them in one of their own."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from typer.testing import CliRunner

from kvquilt.cli.main import app

OF_THEIR_OWN = frozenset({"serve", "node", "router", "demo"})
"""Commands that change what belongs to a whole process: its log, its signals, its threads."""


@dataclass(frozen=True)
class Ended:
    """What a command printed."""

    stdout: str
    stderr: str


def kvquilt(*arguments: object, code: int = 0, **environment: str) -> Ended:
    """Run a command, which must end with this exit code."""
    words = [*map(str, arguments)]
    run = _process if words[0] in OF_THEIR_OWN and "--help" not in words else _here
    ended, found = run(words, environment)
    assert found == code, ended.stderr[-2000:]
    return ended


def answer(*arguments: object, code: int = 0, **environment: str) -> list[object]:
    """What a command prints in JSON, line by line."""
    return [json.loads(line) for line in kvquilt(*arguments, "--json", code=code, **environment).stdout.splitlines()]


def _process(words: Sequence[str], environment: dict[str, str]) -> tuple[Ended, int]:
    command = [sys.executable, "-m", "kvquilt", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=840, env={**os.environ, **environment})
    return Ended(done.stdout, done.stderr), done.returncode


def _here(words: Sequence[str], environment: dict[str, str]) -> tuple[Ended, int]:
    """In a thread without an event loop: commands run loops of their own, also where a test is asynchronous."""
    results = []
    thread = threading.Thread(target=lambda: results.append(CliRunner().invoke(app, words, env=environment)))
    thread.start()
    thread.join()
    (result,) = results
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ended(result.stdout, result.stderr), result.exit_code
