"""How long work reports what it has done."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with the name of the stage, how many of its parts are done, and how many there are
(of a search: at most). What it raises ends the calibration: nothing has to be cleaned up."""


def silent(stage: str, done: int, total: int) -> None:
    """Reports nothing."""
