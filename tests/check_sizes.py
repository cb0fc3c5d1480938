"""Fails if a source file is longer than 300 lines (generated stubs apart). Run by `make check`."""

import subprocess
import sys
from pathlib import Path

LIMIT = 300
GENERATED = "_pb2"


def main() -> int:
    listed = subprocess.run(["git", "ls-files", "*.py", "*.cpp", "*.hpp"], capture_output=True, text=True, check=True)
    long = {}
    for name in listed.stdout.split():
        path = Path(name)
        if GENERATED not in path.name and path.is_file():
            lines = len(path.read_text(encoding="utf-8").splitlines())
            if lines > LIMIT:
                long[name] = lines
    for name, lines in long.items():
        sys.stderr.write(f"{name}: {lines} lines, expected at most {LIMIT}\n")
    return 1 if long else 0


if __name__ == "__main__":
    sys.exit(main())
