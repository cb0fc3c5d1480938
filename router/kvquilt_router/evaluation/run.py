"""Everything that is tried on one case, and what comes out of it: shared by the gate, `kvquilt eval` and the bench."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from kvquilt_codec import container
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.identity import Namespace, chunk_key, context_digest
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.levels import level_cards
from kvquilt_codec.types import KVChunk, Level, TokenIds, VariantKind
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.evaluation.judge import Reference, judge
from kvquilt_router.evaluation.parallel import judge_parallel
from kvquilt_router.evaluation.types import Case, Outcome, Trial
from kvquilt_router.evaluation.variants import Codec, Context, Variants
from kvquilt_router.evaluation.ways import TEMPERATURES, Policies, evaluated_policy


@dataclass(frozen=True, slots=True, eq=False)
class Shared:
    """What all cases of a set share.

    Attributes:
        prefix: the shared prefix, computed.
        warm_ups: the same with passages after it, by name.
        codecs: by level.
    """

    prefix: Context
    warm_ups: Mapping[str, Context]
    codecs: Mapping[str, Codec]

    @classmethod
    def computed(
        cls,
        engine: Engine,
        prefix: TokenIds,
        warm_ups: Mapping[str, Sequence[TokenIds]],
        codecs: Mapping[str, Codec] | None = None,
    ) -> "Shared":
        """Prefill the prefix, and the passages after it."""
        computed = {name: Context.computed(engine, prefix, *passages) for name, passages in warm_ups.items()}
        return cls(Context.computed(engine, prefix), computed, codecs or {})


def outcomes(
    engine: Engine,
    case: Case,
    trials: Sequence[Trial],
    shared: Shared,
    policies: Policies = evaluated_policy,
) -> Iterator[tuple[Trial, Outcome]]:
    """Try everything on one case."""
    reference = Reference.of(engine, case)
    variants = Variants(engine, case.prompt, reference.layers, shared.prefix, shared.warm_ups, shared.codecs)
    chunks: list[Sequence[LayerTensors]] = []
    for trial in trials:
        if trial.policy in TEMPERATURES:
            chunks = chunks or [engine.prefill(document, shared.prefix.layers) for document in case.prompt.documents]
            yield trial, judge_parallel(engine, reference, shared.prefix.layers, chunks, *TEMPERATURES[trial.policy])
            continue
        policy = policies(trial.policy)
        placed = variants.placed(trial.variant, trial.level, trial.warm_up, observed=policy.name == "contextual")
        yield trial, judge(engine, reference, placed, policy, trial.recompute_ratio)


def stored(coder: JointCoder, level: str) -> Codec:
    """A chunk written with a codec profile, and read again at a level of it."""
    fingerprint = coder.profile.model_fingerprint
    depth = next(card.quality_layers for name, card in level_cards(coder.profile).items() if name.value == level)

    def through(chunk: KVChunk) -> KVChunk:
        nothing = context_digest(chunk.token_ids[:0])
        key = chunk_key(Namespace.public(), fingerprint, chunk.token_ids)
        identity = ChunkIdentity(fingerprint, key, VariantKind.BASE, nothing)
        data = container.encode(chunk, Level.HIGH, identity, coder)
        return container.decode(data, fingerprint, None, depth, lambda _: coder).chunk()

    return through
