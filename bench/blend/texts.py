"""The plain texts of bench/texts: prose, and passages of another genre to warm up with."""

from collections.abc import Callable, Sequence
from pathlib import Path

from kvquilt_codec.types import TokenIds

FOLDER = Path(__file__).parent.parent / "texts"
PROSE = ("documentation", "encyclopaedia", "licence", "satire")
PASSAGE_TOKENS = 160


def text(name: str) -> str:
    return (FOLDER / f"{name}.txt").read_text(encoding="utf-8")


def openings(names: Sequence[str], tokenise: Callable[[str], TokenIds], passages: int = 1) -> list[TokenIds]:
    """The first passages of texts: the first of every text, then the second, and so on."""
    whole = [tokenise(text(name)) for name in names]
    return [
        tokens[number * PASSAGE_TOKENS : (number + 1) * PASSAGE_TOKENS]
        for number in range(passages)
        for tokens in whole
    ]
