"""Checks as commands print them."""

from collections.abc import Iterable

from rich.markup import escape
from rich.table import Table

from kvquilt.checks import Check, Outcome
from kvquilt.cli.output import out

_COLOURS = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.WARNED: "bold yellow",
    Outcome.SKIPPED: "yellow",
}


def print_checks(title: str, checks: Iterable[Check]) -> None:
    """A row for each."""
    table = Table("check", "", "found", "what to do", title=title, title_justify="left")
    for check in checks:
        wrong = check.outcome in (Outcome.FAILED, Outcome.WARNED)
        got = f"expected: {check.expected}; got: {check.got}" if wrong else check.got
        colour = _COLOURS[check.outcome]
        table.add_row(check.name, f"[{colour}]{check.outcome.value}[/]", escape(got), escape(check.advice))
    out.print(table)
