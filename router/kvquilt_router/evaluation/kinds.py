"""Passages by kind of text. A prompt's passages are of one kind, as they are where a corpus is asked about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kvquilt_codec.types import TokenIds

WARM_UP_PASSAGES = 4
MIN_PASSAGES = 4
MAX_KINDS = 8
"""The passages to warm up with of every kind are in memory at once."""
_NAMED = 3


@dataclass(frozen=True, slots=True, eq=False)
class Kind:
    """One kind of text.

    Attributes:
        name: in words.
        pool: passages that prompts are made of.
        warming: passages of the same kind that `warm` chunks are computed after; they should be in no prompt.
    """

    name: str
    pool: Sequence[TokenIds]
    warming: Sequence[TokenIds]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Kinds whose passages count as one kind.

    Attributes:
        kinds: by name.
        passages: of all of them.
    """

    kinds: tuple[str, ...]
    passages: Sequence[TokenIds]

    @property
    def name(self) -> str:
        """Of the group, in words."""
        more = len(self.kinds) - _NAMED
        named = [kind or "texts" for kind in self.kinds[:_NAMED]] or ["texts"]
        return " and ".join(named + [f"{more} more"] * (more > 0))

    @property
    def tokens(self) -> int:
        """Of all passages."""
        return sum(map(len, self.passages))


def grouped(found: Mapping[str, Sequence[TokenIds]], min_passages: int, min_tokens: int) -> list[Group]:
    """Groups of kinds, the largest first, that have enough for prompts.

    A kind with fewer than `min_passages` passages or `min_tokens` tokens, and what is beyond `MAX_KINDS` kinds, is put
    together with the smallest of the others, so that all passages count. A single group may be too small, or empty.
    """
    groups = [Group((kind,), passages) for kind, passages in sorted(found.items()) if len(passages)]
    while len(groups) > 1:
        groups.sort(key=lambda group: -group.tokens)
        few = [group for group in groups if len(group.passages) < min_passages or group.tokens < min_tokens]
        if not few and len(groups) <= MAX_KINDS:
            break
        joining = few[-1] if few else groups[-1]
        groups.remove(joining)
        other = groups.pop()
        kinds = tuple(sorted((*other.kinds, *joining.kinds)))
        groups.append(Group(kinds, [*other.passages, *joining.passages]))
    return groups or [Group((), [])]


def spread(count: int, over: int) -> list[int]:
    """So many of the indices below `over`, at equal distances; all of them if there are fewer."""
    return sorted({index * over // count for index in range(count)}) if over else []


def in_words(names: Sequence[str]) -> str:
    """Kinds of text, counted and named."""
    return f"{len(names)} kind{'s' * (len(names) != 1)} of text ({', '.join(names)})"
