"""How long it takes a worker to its first token, by what it is given. Pure computation, from what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvquilt_router.engine_thread import EngineThread
from kvquilt_rpc.cost import Cost
from kvquilt_rpc.pace import Pace

MARGIN = 0.9
"""What costs the router more must be estimated to take at most so much of the time of what costs it less."""
UNMEASURED_SECONDS_PER_TOKEN = 1e-3
"""What computing a token is taken to cost where it is stored or logged and nobody has measured it."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a worker's first token.

    Attributes:
        load_seconds: until the KV has come; `None`: not measured yet.
        first_token_seconds: until the first token; `None`: not measured yet.
        computed: tokens that are computed, by the worker or here.
    """

    load_seconds: float | None
    first_token_seconds: float | None
    computed: int


@dataclass(slots=True)
class Estimates:
    """What was measured of one model on this router; shared by all namespaces.

    Attributes:
        layers: of the model.
        thread: where blends wait for each other.
        prefill: how fast the engine computes whole prompts.
        heads: what exact heads cost to look up, fetch, decode and send.
        chunks: what chunks of blends cost to look up, fetch and decode.
        computes: what the tokens that a blend computes cost.
        blends: how long one blend keeps the engine.
    """

    layers: int
    thread: EngineThread
    prefill: Pace
    heads: Cost = field(default_factory=Cost)
    chunks: Cost = field(default_factory=Cost)
    computes: Cost = field(default_factory=Cost)
    blends: Pace = field(default_factory=Pace)

    @property
    def seconds_per_token(self) -> float | None:
        """Of computing a prompt here."""
        return None if self.prefill.seconds is None else self.prefill.seconds * self.layers

    def computing(self, tokens: int, worker: float | None) -> Way:
        """The worker computes so many tokens, at so many seconds each."""
        return Way(0.0, None if worker is None else tokens * worker, tokens)

    def head(self, tokens: int, left: int, worker: float | None) -> Way:
        """An exact head of so many tokens is loaded, and what is left is computed by the worker."""
        return _way(self.heads.seconds(tokens), None if worker is None else worker * left, left)

    def blend(self, found: int, computed: int, left: int, worker: float | None) -> Way:
        """Chunks of so many tokens are fetched, so many tokens computed here, and what is left by the worker."""
        fetch, compute = self.chunks.seconds(found), self.computes.seconds(computed)
        waiting = self.thread.requests * (self.blends.seconds or 0.0)
        load = None if fetch is None or compute is None else fetch + compute + waiting
        return _way(load, None if worker is None else worker * left, computed + left)

    def refused(self) -> None:
        """Something that is stored was not used because of these estimates: the older they are, the less they say."""
        for cost in (self.heads, self.chunks, self.computes):
            cost.fade()


def earliest(ways: Sequence[Way]) -> int:
    """Which of several ways gives the first token the earliest, by its number.

    The first is to compute all, which costs the router nothing; each further one costs more. Where one was not measured
    yet, it is better than to compute all: only so can it be measured. Of two that load, then, the one for which clearly
    fewer tokens are computed.
    """
    best = 0
    for number, way in enumerate(ways[1:], start=1):
        before = ways[best]
        if before.first_token_seconds is not None and way.first_token_seconds is not None:
            better = way.first_token_seconds < MARGIN * before.first_token_seconds
        else:
            better = best == 0 or before.computed - way.computed > (1 - MARGIN) * ways[0].computed
        best = number if better else best
    return best


def _way(load: float | None, rest: float | None, computed: int) -> Way:
    return Way(load, None if load is None or rest is None else load + rest, computed)
