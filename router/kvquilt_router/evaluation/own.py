"""A user's own documents: passages of them to warm up with and to ask about, and what is tried by default."""

from collections.abc import Mapping, Sequence

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.cases import MIN_PASSAGES, PASSAGE_TOKENS, passages
from kvquilt_router.evaluation.prepared import Prepared
from kvquilt_router.evaluation.types import BASE, EXACT, WARM, Trial
from kvquilt_router.evaluation.variants import Codec
from kvquilt_router.evaluation.ways import TEMPERATURES, check_way, evaluated_policy
from kvquilt_router.selection import EstimatingPolicy

WARM_UP_PASSAGES = 4
REFERENCE = Trial("deviation", 0.15, BASE)
"""CacheBlend at the ratio that its authors recommend; what is shown is relative to it."""
_DEFAULT = "question-deviation"


def split(texts: Sequence[TokenIds]) -> tuple[list[TokenIds], list[TokenIds]]:
    """Passages for cases, and passages for warming up, which are spread over the texts and in no case.

    Raises:
        BadRequestError: too little text.
    """
    every = passages(texts)
    if len(every) < WARM_UP_PASSAGES + MIN_PASSAGES:
        raise BadRequestError(
            f"expected documents of at least {WARM_UP_PASSAGES + MIN_PASSAGES} passages, of {PASSAGE_TOKENS[0]} to "
            f"{PASSAGE_TOKENS[1]} tokens each; got {len(every)}: add documents"
        )
    kept = {index * len(every) // WARM_UP_PASSAGES for index in range(WARM_UP_PASSAGES)}
    pool = [passage for index, passage in enumerate(every) if index not in kept]
    return pool, [every[index] for index in sorted(kept)]


def prepared(model: LoadedModel, texts: Sequence[str], codecs: Mapping[str, Codec]) -> Prepared:
    """Cases over texts.

    Raises:
        BadRequestError: too little text.
    """
    pool, warming = split([model.tokenise(text) for text in texts])
    return Prepared(model, pool, warming, codecs)


def trials(ways: Sequence[tuple[str, float]], levels: Sequence[str]) -> list[Trial]:
    """What is tried: reuse, CacheBlend, `question-deviation`, `full`, and `ways` beside them, on both variants.

    Through the codec, at each of `levels`, go exact chunks, and those that are reused or recomputed by default.

    Raises:
        BadRequestError: a way that does not exist, or that learns from requests.
    """
    for name, _ in ways:
        if check_way(name) not in TEMPERATURES and isinstance(evaluated_policy(name), EstimatingPolicy):
            raise BadRequestError(
                f"expected policies whose choice depends on the prompt alone; {name!r} learns from requests: "
                "`make bench-blend` measures it over a sequence of them"
            )
    ours = [("none", 0.0), *((_DEFAULT, ratio) for ratio in (0.05, 0.1, 0.2))]
    tried = [_trial(name, ratio, variant) for variant in (BASE, WARM) for name, ratio in ours]
    tried += [REFERENCE, Trial("full", 1.0, BASE)]
    for name, ratio in ways:
        # Side by side, chunks are computed directly after the prefix, whatever else is at hand.
        tried += [_trial(name, ratio, v) for v in ((BASE,) if name in TEMPERATURES else (BASE, WARM))]
    for level in levels:
        tried.append(Trial("none", 0.0, EXACT, level))
        tried += [_trial(name, ratio, variant, level) for variant in (BASE, WARM) for name, ratio in ours]
    return list(dict.fromkeys(tried))


def _trial(policy: str, recompute_ratio: float, variant: str, level: str = "") -> Trial:
    return Trial(policy, recompute_ratio, variant, level, WARM if variant == WARM else "")
