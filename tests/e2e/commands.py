"""The program in a process of its own."""

import json
import os
import subprocess
import sys


def kvquilt(*arguments, code=0, **environment):
    """Run a command, which must end with this exit code."""
    result = subprocess.run(
        [sys.executable, "-m", "kvquilt", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=840,
        env={**os.environ, **environment},
    )
    assert result.returncode == code, result.stderr[-2000:]
    return result


def answer(*arguments, code=0, **environment):
    """What a command prints in JSON, line by line."""
    return [json.loads(line) for line in kvquilt(*arguments, "--json", code=code, **environment).stdout.splitlines()]
