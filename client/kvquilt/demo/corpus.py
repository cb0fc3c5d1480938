"""The demo's passages and questions: prose written for this project."""

from dataclasses import dataclass
from importlib.resources import files

from kvquilt.types import Document


@dataclass(frozen=True, slots=True)
class Question:
    """A question over passages in an order of its own."""

    text: str
    order: tuple[str, ...]

    @property
    def asked(self) -> str:
        """As the model is asked."""
        return f"Question: {self.text} Answer in one sentence."


QUESTIONS = (
    Question(
        "What was the paper of Europe made of for six hundred years?",
        ("maps", "glacier", "tea", "clocks", "bridges", "lighthouse", "printing", "salt", "bees", "paper"),
    ),
    Question(
        "Why does a stone arch stand?",
        ("clocks", "bees", "paper", "glacier", "salt", "bridges", "maps", "tea", "lighthouse", "printing"),
    ),
    Question(
        "How was salt made on warm coasts?",
        ("lighthouse", "maps", "clocks", "salt", "paper", "printing", "bees", "bridges", "tea", "glacier"),
    ),
    Question(
        "How long did the glass for the lens have to cool before it could be cut?",
        ("salt", "tea", "printing", "bees", "glacier", "lighthouse", "paper", "clocks", "maps", "bridges"),
    ),
)
"""Every order is new to the cache. Chosen by what a full prefill of the small model answers, never by kvquilt's."""

WARM_UP = Question(
    "What are these passages about?",
    ("paper", "salt", "bridges", "glacier", "clocks", "tea", "maps", "printing", "lighthouse", "bees"),
)
"""Asked first and not counted: the first call of a process pays for memory and caches that later ones find."""

_AGAIN = ("bees", "bridges", "clocks", "glacier", "lighthouse", "maps", "paper", "printing", "salt", "tea")

SAME_PREFIX = (Question(WARM_UP.text, _AGAIN), Question("How many sheets did a vat give in a day?", _AGAIN))
"""The first is asked before, and computed as without kvquilt; the second begins with the same passages."""

CONVERSATION = (Question(QUESTIONS[0].text, _AGAIN[::-1]), "And how many sheets did a vat give in a day?")
"""The first turn, computed as without kvquilt, and what the next one says."""


def passages() -> dict[str, Document]:
    """The passages by name."""
    folder = files("kvquilt.demo") / "corpus"
    names = sorted(entry.name.removesuffix(".txt") for entry in folder.iterdir() if entry.name.endswith(".txt"))
    return {
        name: Document(f"demo/{name}", (folder / f"{name}.txt").read_text(encoding="utf-8").strip() + "\n\n")
        for name in names
    }
