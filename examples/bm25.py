"""A retriever in fifty lines, for the examples: Okapi BM25 over texts in memory."""

import math
import re
from collections import Counter
from collections.abc import Sequence


def words(text: str) -> list[str]:
    """A text's words in lower case, without plural endings."""
    return [word.removesuffix("s") for word in re.findall(r"\w+", text.lower())]


class BM25:
    """Ranks texts for a question (Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009).

    Args:
        texts: to search in.
        k1: how soon further occurrences of a word stop to count.
        b: how much long texts are held back, 0 to 1.
    """

    def __init__(self, texts: Sequence[str], k1: float = 1.2, b: float = 0.75) -> None:
        self._counts = [Counter(words(text)) for text in texts]
        self._mean = sum(counts.total() for counts in self._counts) / max(len(texts), 1)
        self._k1, self._b = k1, b
        found = Counter(word for counts in self._counts for word in counts)
        self._weights = {word: math.log(1 + (len(texts) - n + 0.5) / (n + 0.5)) for word, n in found.items()}

    def search(self, question: str, count: int) -> list[int]:
        """Numbers of the texts that fit best, the best first."""
        wanted = set(words(question))
        scores = [self._score(wanted, counts) for counts in self._counts]
        return sorted(range(len(scores)), key=lambda number: -scores[number])[:count]

    def _score(self, wanted: set[str], counts: Counter[str]) -> float:
        norm = self._k1 * (1 - self._b + self._b * counts.total() / self._mean)
        return sum(
            self._weights[word] * counts[word] * (self._k1 + 1) / (counts[word] + norm)
            for word in wanted & counts.keys()
        )
