"""Samples of a router's state, and what two of them tell of the time between."""

import time
from collections import Counter, deque
from dataclasses import dataclass

from kvquilt.aio import AsyncClient
from kvquilt.served import ServedRequest
from kvquilt.states import NodeStatus, Queue, Status
from kvquilt_codec.errors import DeadlineError, UnavailableError
from kvquilt_codec.tiers import Tier

WINDOW_SECONDS = 60.0
"""Rates are means over so long, or since the first sample."""
REQUESTS = 64
"""Latest requests that are looked at."""
KINDS = ("exact", "pair", "warm", "base", "recomputed", "computed")
TIERS = tuple(tier.value for tier in Tier)
SUMS = ("tokens_exact", "tokens_reused", "tokens_recomputed", "tokens_computed")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A router at one moment.

    Attributes:
        router: its address.
        unix_seconds: when it was asked.
        error: why nothing is known now; empty: it answered.
        version: of the router.
        healthy: every node answers and is called.
        blends: that were served since it started.
        tokens: by what became of them, since it started.
        recent: tokens of the latest requests, by kind.
        tiers: tokens with stored KV by where it was read, since it started.
        recent_tiers: those of the latest requests.
        tokens_per_second: of prompts; `None`: not known yet, as the next one.
        saved_seconds_per_minute: estimated time saved.
        saved_seconds: since it started.
        nodes: see there.
        queues: empty for callers that may not see all.
        slowest: the slowest of the latest requests, the slowest first.
    """

    router: str
    unix_seconds: float
    error: str = ""
    version: str = ""
    healthy: bool = False
    blends: int = 0
    tokens: dict[str, int] | None = None
    recent: dict[str, int] | None = None
    tiers: dict[str, int] | None = None
    recent_tiers: dict[str, int] | None = None
    tokens_per_second: float | None = None
    saved_seconds_per_minute: float | None = None
    saved_seconds: float = 0.0
    nodes: tuple[NodeStatus, ...] = ()
    queues: tuple[Queue, ...] = ()
    slowest: tuple[ServedRequest, ...] = ()


class Sampler:
    """Asks a router again and again.

    Args:
        client: calls it.
        deadline: seconds for each question.
        shown: how many of the slowest requests a snapshot has.
    """

    def __init__(self, client: AsyncClient, *, deadline: float, shown: int) -> None:
        self._client = client
        self._deadline = deadline
        self._shown = shown
        self._past: deque[tuple[float, int, float]] = deque()

    async def sample(self) -> Snapshot:
        """The router now; a snapshot with an error if it does not answer.

        Raises:
            KvquiltError: it answers, and refuses.
        """
        now = time.time()
        try:
            status = await self._client.status(deadline=self._deadline)
            requests = await self._client.requests(limit=REQUESTS, deadline=self._deadline)
        except (UnavailableError, DeadlineError) as error:
            self._past.clear()
            return Snapshot(self._client.target, now, error=str(error))
        return self._of(status, requests, now)

    def _of(self, status: Status, requests: tuple[ServedRequest, ...], now: float) -> Snapshot:
        def total(name: str) -> int:
            return sum(own.get(name, 0) for own in status.usage.values())

        tokens = {name.removeprefix("tokens_"): total(name) for name in SUMS}
        saved = (total("milliseconds_saved") - total("milliseconds_lost")) / 1000
        speed, saving = self._rates(time.monotonic(), sum(tokens.values()), saved)
        recent, recent_tiers = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(TIERS, 0))
        for request in requests:
            recent.update(request.tokens())
            recent_tiers.update(request.tokens_by_tier)
        slowest = sorted(requests, key=lambda request: request.seconds["total"], reverse=True)
        return Snapshot(
            self._client.target,
            now,
            version=status.version,
            healthy=bool(status.nodes) and all(map(well, status.nodes)),
            blends=total("blends"),
            tokens=tokens,
            recent=dict(recent),
            tiers={tier: total(f"tokens_from_{tier}") for tier in TIERS},
            recent_tiers=dict(recent_tiers),
            tokens_per_second=speed,
            saved_seconds_per_minute=saving,
            saved_seconds=saved,
            nodes=status.nodes,
            queues=status.queues,
            slowest=tuple(slowest[: self._shown]),
        )

    def _rates(self, now: float, tokens: int, saved: float) -> tuple[float | None, float | None]:
        past = self._past
        if past and past[-1][1] > tokens:
            past.clear()  # it was started anew, or a namespace was forgotten
        while len(past) > 1 and now - past[0][0] > WINDOW_SECONDS:
            past.popleft()
        past.append((now, tokens, saved))
        began, tokens_then, saved_then = past[0]
        if now <= began:
            return None, None
        return (tokens - tokens_then) / (now - began), 60 * (saved - saved_then) / (now - began)


def well(node: NodeStatus) -> bool:
    """Whether a node answers and is called."""
    return node.reachable and node.serving and node.breaker == "closed"
