"""What a set of cases is, to the benchmark."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from kvquilt_codec.types import TokenIds
from kvquilt_router.evaluation.types import Case

PASSAGES = (2, 4, 8)
OTHER_GENRE = "other genre"
DEFAULT_WARM_UP = "4 passages"


class CaseSet(Protocol):
    """Cases of one kind over one corpus."""

    name: str

    @property
    def prefix(self) -> TokenIds:
        """The shared prefix of all cases."""

    def warm_ups(self) -> Mapping[str, Sequence[TokenIds]]:
        """Passages to compute chunks after, by name; they are in no case."""

    def cases(self, count: int) -> Iterator[Case]:
        """The first so many cases; fewer if the set has no more."""
