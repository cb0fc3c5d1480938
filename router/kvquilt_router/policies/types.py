"""What a policy may be able to do beyond choosing: change reused KV beforehand, and learn from the result."""

from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from kvquilt_router.types import RecomputePolicy, SelectionProblem


class KVView(Protocol):
    """A prompt's KV where it is, free of position: keys are given and taken un-rotated. Not valid after the blend."""

    @property
    def layers(self) -> int:
        """Number of layers."""

    def read(self, layer: int, begin: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Copies of the keys and values of the tokens at `begin` to `end`, each `[kv_heads, tokens, dim]`."""

    def write(self, layer: int, begin: int, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """Put keys and values of that form in place of those at `begin` onwards."""


@runtime_checkable
class EstimatingPolicy(RecomputePolicy, Protocol):
    """A policy that also changes reused KV, and learns from what was computed. An object serves one blend."""

    def estimate(self, problem: SelectionProblem, kv: KVView) -> None:
        """Change reused KV in place, nearer to what a full prefill would compute. Comes before `select`."""

    def observe(self, problem: SelectionProblem, kv: KVView) -> None:
        """Learn from the finished KV. Comes after the compute; not at all if the blend fails before."""
