"""The decode stage of dual-stage high deviation (KVShare, arXiv 2503.16525v2): which reused tokens are computed next.

At every decode step the tokens that are still reused are scored anew, by the attention that this step pays to them
times their deviation, and the N = 3 highest are computed again. Each is computed at most once; what it then holds
carries the error of the tokens before it that are still reused.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.policies.ranking import highest
from kvquilt_router.types import Indices

TOKENS_PER_STEP = 3
"""As the paper has it."""


class DecodeRefresher:
    """Chooses, step by step; one object serves one generation.

    Args:
        positions: of the reused tokens, ascending.
        deviations: how far each one's stored values are from fresh ones; at least 0.
        tokens_per_step: how many are chosen at a step.

    Raises:
        BadRequestError: not one finite deviation per position, positions that do not ascend, or no tokens per step.
    """

    def __init__(
        self, positions: Sequence[int], deviations: Sequence[float], *, tokens_per_step: int = TOKENS_PER_STEP
    ) -> None:
        self._waiting: Indices = np.asarray(positions, np.int64)
        self._deviation: NDArray[np.float32] = np.asarray(deviations, np.float32)
        if len(self._waiting) != len(self._deviation):
            raise BadRequestError(
                f"expected one deviation per reused token; got {len(self._deviation)} for {len(self._waiting)}"
            )
        if (np.diff(self._waiting, prepend=-1) <= 0).any():
            raise BadRequestError("expected positions of reused tokens that ascend from 0; they do not")
        if not (np.isfinite(self._deviation) & (self._deviation >= 0)).all():
            raise BadRequestError("expected finite deviations of at least 0; got others")
        if tokens_per_step < 1:
            raise BadRequestError(f"expected at least 1 token per step; got {tokens_per_step}")
        self._tokens_per_step = tokens_per_step

    @property
    def waiting(self) -> Indices:
        """Positions that were not chosen yet, ascending."""
        return self._waiting

    def next(self, attention: NDArray[np.float32]) -> Indices:
        """Positions to compute again after this step, ascending; none once all were.

        Args:
            attention: that the step's token paid to each token so far, `[tokens]`, summed over layers and heads.
        """
        chosen = highest(attention[self._waiting] * self._deviation, self._waiting, self._tokens_per_step)
        left = ~np.isin(self._waiting, chosen)
        self._waiting, self._deviation = self._waiting[left], self._deviation[left]
        return chosen
