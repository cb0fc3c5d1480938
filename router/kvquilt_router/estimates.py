"""How long it takes a worker to its first token, by what it is given. Pure computation, from measured rates."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kvquilt_router.engine_thread import EngineThread
from kvquilt_rpc.pace import Pace

MARGIN = 0.9
"""What costs the router more must be estimated to take at most so much of the time of what costs it less."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a worker's first token.

    Attributes:
        load_seconds: until the KV has come; `None`: not measured yet.
        first_token_seconds: until the first token; `None`: not measured yet.
    """

    load_seconds: float | None
    first_token_seconds: float | None


@dataclass(slots=True)
class Estimates:
    """Measured rates of one model on this router; shared by all namespaces.

    Attributes:
        layers: of the model.
        thread: where blends wait for each other.
        prefill: how fast the engine computes whole prompts.
        engine: how fast it computes what blends choose.
        heads: how fast exact heads are looked up, fetched, decoded and sent, per token.
        chunks: how fast chunks of blends are looked up, fetched and decoded, per token.
        blends: how long one blend keeps the engine.
    """

    layers: int
    thread: EngineThread
    prefill: Pace
    engine: Pace
    heads: Pace = field(default_factory=Pace)
    chunks: Pace = field(default_factory=Pace)
    blends: Pace = field(default_factory=Pace)

    @property
    def seconds_per_token(self) -> float | None:
        """Of computing a prompt here."""
        return None if self.prefill.seconds is None else self.prefill.seconds * self.layers

    def computing(self, tokens: int, worker: float | None) -> Way:
        """The worker computes so many tokens, at so many seconds each."""
        return Way(0.0, None if worker is None else tokens * worker)

    def head(self, tokens: int, left: int, worker: float | None) -> Way:
        """An exact head of so many tokens is loaded, and what is left is computed by the worker."""
        return _way(_times(self.heads.seconds, tokens), _times(worker, left))

    def blend(self, found: int, computed: int, worker: float | None) -> Way:
        """Chunks of so many tokens are fetched, and so many tokens computed here; the worker computes the last one."""
        fetch = _times(self.chunks.seconds, found)
        pace = self.engine.seconds if self.engine.seconds is not None else self.prefill.seconds
        compute = _times(pace, computed * self.layers)
        waiting = self.thread.requests * (self.blends.seconds or 0.0)
        load = None if fetch is None or compute is None else fetch + compute + waiting
        return _way(load, worker)


def earliest(ways: Sequence[Way]) -> int:
    """Which of several ways gives the first token the earliest, by its number.

    The first costs the router nothing, each further one more. Where nothing was measured of one, it is tried: only so
    can it be.
    """
    best = 0
    for number, way in enumerate(ways[1:], start=1):
        before = ways[best].first_token_seconds
        if before is None or way.first_token_seconds is None or way.first_token_seconds < MARGIN * before:
            best = number
    return best


def _way(load: float | None, rest: float | None) -> Way:
    return Way(load, None if load is None or rest is None else load + rest)


def _times(seconds: float | None, count: int) -> float | None:
    return None if seconds is None else seconds * count
