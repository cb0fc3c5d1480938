"""Lines that the program would not take are found."""

import re
from pathlib import Path

import pytest

from tests.docs.commands import refused
from tests.docs.pages import ROOT


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("kvquilt status --router HOST:PORT --set client.credentials.tls_ca=ca.crt > status.txt", ""),
        ("kvquilt token create --key FILE --identity NAME --namespace NAME --expires 30d", ""),
        ("kvquilt stats", "no command"),
        ("kvquilt token", "no command"),
        ("kvquilt status --rooter HOST:PORT", "--rooter"),
        ("kvquilt drain", "node"),
        ("kvquilt drain NODE OTHER", "OTHER"),
        ("kvquilt drain NODE --timeout soon", "valid number"),
        (
            "kvquilt status --set client.credentials.tls=x --set router.modell=x",
            "router.modell=x sets what there is not",
        ),
        ("kvquilt status --set nothing=x", "nothing=x sets what there is not"),
    ],
)
def test_a_line_is_taken_or_it_is_said_why_not(line: str, why: str) -> None:
    found = refused(line)
    assert why in found
    assert bool(found) == bool(why)


@pytest.mark.parametrize(
    "page", sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md"]), ids=lambda page: page.stem
)
def test_lines_of_a_page_are_such_as_the_program_takes(page: Path) -> None:
    for block in re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            command = re.split(r"  (?!--)", line.strip().removeprefix("$ "))[0]  # two spaces, then what is said of it
            if command.startswith("kvquilt "):
                assert refused(command) == "", line
