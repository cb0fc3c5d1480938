"""Reads as much of the Dockerfile format as ours uses, and says so where there is more."""

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

KNOWN = ("ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "SHELL", "USER", "WORKDIR")
DEFAULT_SHELL = ("/bin/sh", "-c")


@dataclass(frozen=True)
class Step:
    """An instruction, and what follows its name."""

    name: str
    text: str

    def words(self) -> list[str]:
        """As a JSON array, or as a shell would split it."""
        return list(map(str, json.loads(self.text))) if self.text.startswith("[") else shlex.split(self.text)


@dataclass
class Stage:
    """What begins with one FROM."""

    base: str
    steps: list[Step] = field(default_factory=list)


def read(path: Path) -> tuple[list[Step], dict[str, Stage]]:
    """What precedes the first stage, and the stages by name.

    Raises:
        ValueError: an instruction that is not known here.
    """
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    before: list[Step] = []
    stages: dict[str, Stage] = {}
    steps = before
    for whole in filter(None, "\n".join(lines).replace("\\\n", " ").splitlines()):
        name, _, text = whole.strip().partition(" ")
        if name not in KNOWN:
            raise ValueError(f"expected one of {', '.join(KNOWN)} in {path}; got {name!r}")
        if name == "FROM":
            base, _, stage = text.partition(" AS ")
            stages[stage] = Stage(base)
            steps = stages[stage].steps
        else:
            steps.append(Step(name, text.strip()))
    return before, stages


def expanded(text: str, variables: dict[str, str]) -> str:
    """Text with the variables that are written as ${NAME}."""
    return re.sub(r"\$\{(\w+)\}", lambda found: variables.get(found[1], ""), text)


def ignored(name: str, patterns: list[str]) -> bool:
    """Whether a path below the context, or a folder of it, is one of .dockerignore's."""
    parts = name.split("/")
    heads = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    return any(_pattern(pattern).fullmatch(head) for pattern in patterns for head in heads)


def _pattern(pattern: str) -> re.Pattern[str]:
    text = re.escape(pattern).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
    return re.compile(text)
