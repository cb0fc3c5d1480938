"""Commands that are imported when they are asked for: a server starts without the code of all others."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.main import get_command_from_info, get_group_from_info
from typer.models import CommandInfo, TyperInfo


@dataclass(frozen=True)
class Source:
    """Where a command is.

    Attributes:
        panel: the heading that help lists it under.
        module: that has it.
        attribute: a function, or a `typer.Typer` with commands of its own.
    """

    panel: str
    module: str
    attribute: str

    def load(self, name: str) -> Any:
        """Import it: a command as Click has them."""
        found: Any = getattr(import_module(self.module), self.attribute)
        style: Any = {"pretty_exceptions_short": True, "rich_markup_mode": "markdown"}
        if isinstance(found, typer.Typer):
            info = TyperInfo(found, name=name, rich_help_panel=self.panel)
            return get_group_from_info(info, suggest_commands=True, **style)
        return get_command_from_info(CommandInfo(name, callback=found, rich_help_panel=self.panel), **style)


class Commands(Mapping[str, Any]):
    """Commands by name, each loaded at its first use. What only counts or names them loads nothing."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        self._sources = sources
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._loaded:
            self._loaded[name] = self._sources[name].load(name)
        return self._loaded[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)
