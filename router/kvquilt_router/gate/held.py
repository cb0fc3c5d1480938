"""The gate in force for a model: what was measured, what audits found, and what is decided from both."""

import asyncio
import logging
from collections.abc import Collection, Set
from dataclasses import dataclass, field, replace

from kvquilt_codec.gate import CONTEXTS, Gate
from kvquilt_codec.gate.audits import Key
from kvquilt_router.gate.choose import EXACT, choose, least, order, raised
from kvquilt_router.gate.types import Decision
from kvquilt_router.gate.withdrawal import Audits
from kvquilt_router.types import BlendOptions
from kvquilt_rpc.counters import Counters

log = logging.getLogger(__name__)

UNGATED_POLICY, UNGATED_RATIO = "question-deviation", 0.15
FULL = "full"
_UNHEARD = "no node has told yet what audits withdrew of it: points that they disproved must not be used"


@dataclass(slots=True)
class HeldGate:
    """What decides how a model's prompts are blended.

    Attributes:
        gate: what was measured; `None`: nothing that holds for this model and codec profile.
        missing_reason: why there is none, in words; empty if there is one.
        source: where it came from: the file's path, or "node".
        ungated: blend as asked, whatever was measured: for evaluation.
        audits: of what was served; `None` without a gate.
        urgent: set when other routers should learn at once what audits found.
    """

    gate: Gate | None = None
    missing_reason: str = ""
    source: str = ""
    ungated: bool = False
    audits: Audits | None = None
    urgent: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def blends(self) -> bool:
        """Whether chunks whose context changed may be used at all."""
        return self.ungated or self.gate is not None

    def come(self, gate: Gate, source: str) -> None:
        """Decide by this gate from now on."""
        self.gate, self.source, self.missing_reason = gate, source, ""
        self.audits = Audits(gate)
        self.urgent.set()

    @property
    def heard(self) -> bool:
        """Whether it is known what other routers withdrew; without a gate there is nothing to know."""
        return self.audits is None or self.audits.heard

    @property
    def closed_reason(self) -> str:
        """Why chunks are used in their exact context only, in words; empty: they are not."""
        return self.missing_reason or ("" if self.heard else _UNHEARD)

    @property
    def withdrawn(self) -> Set[Key]:
        """Keys of the points that audits disproved."""
        return frozenset() if self.audits is None else self.audits.withdrawn

    @property
    def _untrusted(self) -> Set[Key]:
        return frozenset() if self.audits is None else self.audits.untrusted

    def withdrew(self, key: Key, counters: Counters) -> None:
        """Audits that this router knows of have just disproved a point."""
        self.urgent.set()
        counters.add("points_withdrawn")
        log.error("withdrawn, since audits exceed what was measured: policy %s, ratio %g, context %s, level %s", *key)

    def order(self, options: BlendOptions) -> tuple[str, ...]:
        """Contexts of stored chunks, the best first, by measured divergence."""
        return order(self.gate, options.point.level.value, CONTEXTS)

    def raised(self, options: BlendOptions, contexts: Collection[str], decision: Decision) -> list[Decision]:
        """What may be done instead of a decision of `decide`: the same with more recompute, as far as was measured.

        Nothing where the request, or the router's settings, named a ratio.
        """
        if self.ungated or options.recompute_ratio is not None:
            return []
        level, withdrawn = options.point.level.value, self._untrusted
        return raised(self.gate, level, contexts, options.max_kl, decision, withdrawn)

    def least(self, options: BlendOptions, context: str) -> float | None:
        """The least divergence that it can predict of a context for such a request; `None`: it was not measured."""
        return least(
            self.gate,
            options.point.level.value,
            context,
            policy=options.policy,
            recompute_ratio=options.recompute_ratio,
            withdrawn=self._untrusted,
        )

    def decide(self, options: BlendOptions, contexts: Collection[str]) -> tuple[Decision, frozenset[str]]:
        """How to blend chunks of these contexts, and chunks of which contexts to use.

        Where not all of them can be used within the limit, those of the worst contexts are left out first.
        """
        present = [context for context in self.order(options) if context in contexts]
        if options.policy == FULL:
            return Decision(FULL, 1.0, 0.0), frozenset(present)
        if self.ungated:
            ratio = UNGATED_RATIO if options.recompute_ratio is None else options.recompute_ratio
            return Decision(options.policy or UNGATED_POLICY, ratio, None), frozenset(present)
        first: Decision | None = None
        while True:
            decision = choose(
                self.gate,
                options.point.level.value,
                present,
                options.max_kl,
                policy=options.policy,
                recompute_ratio=options.recompute_ratio,
                withdrawn=self._untrusted,
            )
            if decision.refusal == "withdrawn" and not self.heard:
                decision = replace(decision, refusal="withdrawals_unknown")
            first = first or decision
            if not decision.refusal:
                if set(present) <= {EXACT} and first.refusal:
                    # Nothing but exact chunks is left: say why.
                    decision = Decision(
                        decision.policy, decision.recompute_ratio, decision.predicted_kl, refusal=first.refusal
                    )
                return decision, frozenset(present)
            present.pop()
