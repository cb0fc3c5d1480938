"""When to compute while chunks still arrive, and how much: pure computation.

The recompute of layer l runs while layer l + 1 and those after it are fetched and decoded, as in CacheBlend (EuroSys
2025, arXiv 2405.16444), whose loading controller `balanced_ratio` is, and Cache-Craft (SIGMOD 2025, arXiv 2502.15734).
"""

from collections.abc import Iterable, Sequence


def keeps_up(seconds_until: Sequence[float], seconds_per_layer: float) -> bool:
    """Whether every layer will have come when the layers before it are computed.

    Args:
        seconds_until: per layer, how long until it has come.
        seconds_per_layer: how long a layer is computed.
    """
    return all(until <= layer * seconds_per_layer for layer, until in enumerate(seconds_until))


def balanced_ratio(
    minimum: float, measured: Iterable[float], load_seconds: float, seconds_per_token: float, tokens: int
) -> float:
    """The recompute ratio at which computing takes as long as loading, of those that were measured.

    CacheBlend's controller: r such that T_recompute = T_load, then `max(r, r*)`. Computing more than `minimum` costs no
    time then: the engine would stand idle. A ratio between two measured ones was not measured itself, so it is the next
    measured one below.

    Args:
        minimum: what quality asks for; never less than this.
        measured: ratios known to be good enough.
        load_seconds: until all chunks have come.
        seconds_per_token: of recomputing a token in all layers.
        tokens: that may be recomputed.
    """
    cost = seconds_per_token * tokens
    balanced = load_seconds / cost if cost > 0 else minimum
    return max([minimum, *(ratio for ratio in measured if ratio <= balanced)])
