"""A user's own documents: passages of each kind to warm up with and to ask about, and what is tried by default."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.types import TokenIds
from kvquilt_router.calibration.texts import Text
from kvquilt_router.engine import LoadedModel
from kvquilt_router.evaluation.cases import CONTEXT_TOKENS
from kvquilt_router.evaluation.kinds import MIN_PASSAGES, WARM_UP_PASSAGES, Group, Kind, grouped, spread
from kvquilt_router.evaluation.passages import PASSAGE_TOKENS, Cutter
from kvquilt_router.evaluation.prepared import Prepared
from kvquilt_router.evaluation.types import BASE, EXACT, WARM, Trial
from kvquilt_router.evaluation.variants import Codec
from kvquilt_router.evaluation.ways import TEMPERATURES, check_way, evaluated_policy
from kvquilt_router.selection import EstimatingPolicy

REFERENCE = Trial("deviation", 0.15, BASE)
"""CacheBlend at the ratio that its authors recommend; what is shown is relative to it."""
_DEFAULT = "question-deviation"


def prepared(
    model: LoadedModel, texts: Sequence[Text], codecs: Mapping[str, Codec], context_tokens: int = CONTEXT_TOKENS
) -> Prepared:
    """Cases over texts, in prompts of about so many tokens.

    Raises:
        BadRequestError: too little text.
    """
    found: defaultdict[str, list[TokenIds]] = defaultdict(list)
    for text in texts:
        found[text.kind].append(model.tokenise(text.content))
    cutter = Cutter(model)
    groups = grouped(
        {kind: cutter.passages(of_kind) for kind, of_kind in found.items()},
        WARM_UP_PASSAGES + MIN_PASSAGES,
        context_tokens // 2,
    )
    return Prepared(model, [_split(group) for group in groups], codecs)


def _split(group: Group) -> Kind:
    """Passages for cases, and passages for warming up, which are spread over the texts and in no case."""
    every = group.passages
    if len(every) < WARM_UP_PASSAGES + MIN_PASSAGES:
        raise BadRequestError(
            f"expected documents of at least {WARM_UP_PASSAGES + MIN_PASSAGES} passages, of {PASSAGE_TOKENS[0]} to "
            f"{PASSAGE_TOKENS[1]} tokens each; got {len(every)}: add documents"
        )
    kept = spread(WARM_UP_PASSAGES, len(every))
    pool = [passage for index, passage in enumerate(every) if index not in kept]
    return Kind(group.name, pool, [every[index] for index in kept])


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
