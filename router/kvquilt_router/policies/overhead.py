"""Cache context overhead of a chunk (Cache-Craft, SIGMOD 2025, arXiv 2502.15734, equations 3 to 12).

    inter(i, j), intra(i)    attention of chunk i's tokens to chunk j before it, and to each other       (3, 4)
    beta  = sum of inter over the former chunks that precede it again / sum over all of them             (6)
    gamma = D / (m (m - 1) / 2), D of the m common chunks' pairs being in another order (Kendall tau)    (7)
    beta' = beta (1 - gamma)                                                                             (8)
    a = sum over j of inter(i, j) / (|i| |j|),  b = intra(i) / |i|^2, means over layers                  (9, 10)
    CCI = 1 / (1 + exp(-a / b))                                                                          (11)
    CFO = alpha * CCI * (1 - beta'), without alpha here                                                  (12)

The paper sets beta to 1 for a chunk that had nothing before it, which says that nothing of it need be computed again. A
chunk is a candidate here because its context did change, so one that was computed alone has seen nothing of what now
precedes it: its overhead is 1, and so is that of a chunk whose attention was not kept.
"""

import math
from collections.abc import Sequence

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.selection import ReusedChunk


def cfo(chunk: ReusedChunk, order: Sequence[tuple[bytes, int]]) -> float:
    """Share of a chunk's tokens that should be computed again, 0 to 1, before the factor alpha.

    Args:
        chunk: with what is known of its former context.
        order: key and first position of every chunk of the prompt.
    """
    if not chunk.sources or chunk.intra <= 0:
        return 1.0
    before = {key: begin for key, begin in order if begin < chunk.begin}
    places = [before[source.chunk_key] for source in chunk.sources if source.chunk_key in before]
    total = sum(source.inter for source in chunk.sources)
    again = sum(source.inter for source in chunk.sources if source.chunk_key in before)
    beta = again / total if total > 0 else 1.0
    a = sum(source.inter / (chunk.tokens * source.tokens) for source in chunk.sources)
    b = chunk.intra / chunk.tokens**2
    cci = 1 / (1 + math.exp(-a / b))
    return min(1.0, max(0.0, cci * (1 - beta * (1 - discordance(places)))))


def discordance(places: Sequence[int]) -> float:
    """Share of pairs that are not in ascending order (Kendall tau distance, normalised); 0 for fewer than two."""
    pairs = len(places) * (len(places) - 1) // 2
    wrong = sum(places[i] > later for i in range(len(places)) for later in places[i + 1 :])
    return wrong / pairs if pairs else 0.0


def best_variant(variants: Sequence[ReusedChunk], order: Sequence[tuple[bytes, int]]) -> ReusedChunk:
    """The stored variant of one chunk whose overhead in this prompt is lowest; of equal ones the first.

    Args:
        variants: all at the chunk's place in the prompt.
        order: as in `cfo`.

    Raises:
        BadRequestError: there is no variant.
    """
    if not variants:
        raise BadRequestError("expected at least one stored variant to choose from; got none")
    return min(variants, key=lambda variant: cfo(variant, order))
