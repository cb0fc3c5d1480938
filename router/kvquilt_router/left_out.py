"""What of a prompt's chunks a worker is not given, and why. Pure computation."""

from collections.abc import Sequence

import numpy as np

from kvquilt_router.types import SLOWER, ChunkOutcome, ChunkRef


def left_out(refs: Sequence[ChunkRef], known: Sequence[ChunkOutcome], missed: str) -> list[ChunkOutcome]:
    """The outcomes of chunks none of which is given.

    Args:
        refs: of one prompt.
        known: what was found out for a blend of it, which cuts it elsewhere; nothing where that was not asked for.
        missed: why the others were missed.
    """
    tokens = max((ref.end for ref in (*refs, *(outcome.ref for outcome in known))), default=0)
    whose = np.zeros(tokens, np.int64)
    for number, outcome in enumerate(known, start=1):
        whose[outcome.ref.begin : outcome.ref.end] = number
    found = []
    for ref in refs:
        most = int(np.bincount(whose[ref.begin : ref.end]).argmax())
        if most == 0:
            found.append(ChunkOutcome(ref, miss_reason=missed))
        else:
            outcome = known[most - 1]
            # What was found and is not used would have come too late.
            found.append(ChunkOutcome(ref, miss_reason=outcome.miss_reason or SLOWER, kept_out=outcome.kept_out))
    return found
