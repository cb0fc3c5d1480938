"""The documents as the tests read them: sections, tables, words in back-ticks."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def section(page: str, heading: str) -> str:
    """Text under a heading, up to the next one of the same or a higher rank; the heading itself must be there once."""
    text = (ROOT / "docs" / page).read_text()
    found = list(re.finditer(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE))
    assert len(found) == 1, f"{page} has {len(found)} headings {heading!r}"
    rank = len(found[0][1])
    rest = text[found[0].end() :]
    following = re.search(rf"^#{{1,{rank}}} ", rest, re.MULTILINE)
    return rest[: following.start()] if following else rest


def rows(text: str) -> list[list[str]]:
    """Cells of the rows of all tables in a text, headers left out."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for number, line in enumerate(lines):
        after = lines[number + 1] if number + 1 < len(lines) else ""
        if line.startswith("| ") and not line.startswith("| ---") and not after.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return found


def words(text: str) -> set[str]:
    """What stands in back-ticks."""
    return set(re.findall(r"`([^`\n]+)`", text))


def first_words(text: str) -> set[str]:
    """What stands in back-ticks in the first column of the tables."""
    return {word for row in rows(text) for word in words(row[0])}
