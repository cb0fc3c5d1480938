"""The demo's passages and questions: prose written for this project."""

from dataclasses import dataclass
from importlib.resources import files

from kvquilt.types import Document


@dataclass(frozen=True, slots=True)
class Question:
    """A question over passages in an order of its own; every order is new to the cache."""

    text: str
    order: tuple[str, ...]


QUESTIONS = (
    Question(
        "How long did the glass for the lens have to cool before it could be cut?",
        ("salt", "printing", "lighthouse", "tea", "bees", "maps", "glacier", "paper", "bridges", "clocks"),
    ),
    Question(
        "What do honeybees do with water to cool the hive on a hot day?",
        ("clocks", "bees", "paper", "glacier", "salt", "bridges", "maps", "tea", "lighthouse", "printing"),
    ),
    Question(
        "Which metal is the pendulum rod made of so that heat hardly changes its length?",
        ("maps", "glacier", "tea", "clocks", "bridges", "lighthouse", "printing", "salt", "bees", "paper"),
    ),
)

WARM_UP = Question(
    "What are these passages about?",
    ("bees", "bridges", "clocks", "glacier", "lighthouse", "maps", "paper", "printing", "salt", "tea"),
)
"""Asked first and not counted: the first call of a process pays for memory and caches that later ones find."""


def passages() -> dict[str, Document]:
    """The passages by name."""
    folder = files("kvquilt.demo") / "corpus"
    names = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return {
        name: Document(f"demo/{name}", (folder / f"{name}.txt").read_text(encoding="utf-8").strip() + "\n\n")
        for name in names
    }
