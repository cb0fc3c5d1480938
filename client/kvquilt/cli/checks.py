"""Checks as commands print them."""

from collections import Counter
from collections.abc import Sequence

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


def print_checks(title: str, checks: Sequence[Check]) -> None:
    """A row for each, with what to do below what was found; then how many ended how."""
    table = Table("check", "", "found", title=title, title_justify="left")
    table.columns[2].overflow = "fold"  # what is to be copied: none may be cut
    for check in checks:
        colour = _COLOURS[check.outcome]
        table.add_row(check.name, f"[{colour}]{check.outcome.value}[/]", "\n".join(_lines(check)))
    out.print(table)
    counts = Counter(check.outcome for check in checks)
    out.print(", ".join(f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome]))


def _lines(check: Check) -> list[str]:
    if check.outcome in (Outcome.FAILED, Outcome.WARNED):
        found = [f"expected: {escape(check.expected)}", f"got: {escape(check.got)}"]
        return [*found, f"[bold]to do: {escape(check.advice)}[/]"] if check.advice else found
    if check.outcome is Outcome.PASSED:
        return [f"{escape(check.expected)} [dim]({escape(check.got)})[/]"]
    return [escape(check.got), f"[dim]to make it: {escape(check.advice)}[/]"] if check.advice else [escape(check.got)]
