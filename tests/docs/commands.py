"""Command lines of documents: whether the program would take them."""

import re
import shlex
import typing
from itertools import pairwise

import typer.main
from pydantic import BaseModel
from typer.core import TyperCommand, TyperGroup
from typer.exceptions import TyperException

from kvquilt.cli.main import app
from kvquilt.cli.settings import KvquiltSettings

WHOLE = typer.main.get_group(app)


def refused(line: str) -> str:
    """What is wrong with a line that begins with `kvquilt`; empty: nothing. It is parsed, not run.

    Words in capitals stand for something, files need not exist, and what follows a pipe or the like is left out.
    """
    words = shlex.split(re.split(r" [|>&;]", line)[0])
    unknown = [
        f"{given} sets what there is not"
        for flag, given in pairwise(words)
        if flag == "--set" and not _known(KvquiltSettings, given.split("=")[0].split("."))
    ]
    return "; ".join([*_parsed(WHOLE, words[1:]), *unknown])


def _parsed(command: TyperGroup | TyperCommand, words: list[str]) -> list[str]:
    try:
        if not isinstance(command, TyperGroup):
            command.make_context(command.name, words)
        elif not words or words[0] not in command.commands:
            return [f"there is no command {words[:1]}"]
        else:
            return _parsed(command.commands[words[0]], words[1:])
    except TyperException as error:
        return [str(error) or type(error).__name__]
    return []


def _known(settings: type[BaseModel], path: list[str]) -> bool:
    field = settings.model_fields.get(path[0])
    if field is None or len(path) == 1:
        return field is not None
    kinds = [field.annotation, *typing.get_args(field.annotation)]
    return any(_known(kind, path[1:]) for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
