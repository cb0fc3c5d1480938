"""Finished cases on disk, so that a run that was cut off goes on where it was."""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

import kvquilt_router
from kvquilt_router.evaluation.types import Outcome, Trial

BENCH = Path(__file__).parent
ROUTER = Path(kvquilt_router.__file__).parent
SOURCES = (
    *(ROUTER / "evaluation" / f"{name}.py" for name in ("judge", "parallel", "run", "types", "variants", "ways")),
    *(ROUTER / f"{name}.py" for name in ("assembly", "dependence")),
    *sorted((ROUTER / "engine").glob("*.py")),
    *sorted((ROUTER / "policies").glob("*.py")),
)
"""What decides how a case comes out, whatever set it is of."""


class Tried(msgspec.Struct, frozen=True):
    trial: Trial
    outcome: Outcome


class Line(msgspec.Struct, frozen=True):
    """What was tried on a case, under conditions that `digest` stands for.

    Attributes:
        tokens: of the prompt.
        reused: of them in chunks whose context changed.
    """

    digest: str
    set: str
    case: str
    tokens: int
    reused: int
    tried: tuple[Tried, ...]


def digest(conditions: dict[str, object], sources: Iterable[Path]) -> str:
    """Of everything that decides how a case comes out: sources, data and conditions."""
    hashed = sha256(msgspec.json.encode(conditions, order="sorted"))
    for path in (*SOURCES, *sources):
        hashed.update(path.name.encode() + b"\0" + path.read_bytes())
    return hashed.hexdigest()


class Record:
    """A file of lines; those of other conditions stay in it and are not read.

    Args:
        path: of the file; it may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, digest: str) -> dict[str, list[Line]]:
        """Lines under these conditions, by case. A last line that was not finished is cut off."""
        if not self._path.exists():
            return {}
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        found: dict[str, list[Line]] = {}
        for encoded in whole.splitlines():
            line = msgspec.json.decode(encoded, type=Line)
            if line.digest == digest:
                found.setdefault(line.case, []).append(line)
        return found

    def append(self, line: Line) -> None:
        """Add a finished case."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as opened:
            opened.write(msgspec.json.encode(line) + b"\n")
            opened.flush()
            os.fsync(opened.fileno())

    def clear(self) -> None:
        """Forget everything."""
        self._path.unlink(missing_ok=True)
