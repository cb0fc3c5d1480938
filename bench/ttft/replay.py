"""Sessions replayed as they would come, with a router that stores in the background: what is hit, and what it saves."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from kvquilt import Client
from ttft.types import Engine, RagPrompt, Shot

QUIET_SECONDS = 1.0
"""As long as nothing more is stored, all is taken to be."""
STORING = ("background_", "saves", "chunks_saved", "chunks_unsaved")
"""What counters of a router begin with that grow while it stores."""


@dataclass(frozen=True, slots=True)
class Way:
    """How sessions are asked.

    Attributes:
        name: of the row.
        extent: that is asked for.
        saves: what the engine computed is saved after each answer, as an application would. Else the router stores what
            it missed of a whole prompt.
        prefetches: of sessions over a corpus, its passages are prefetched before the first request.
    """

    name: str
    extent: str
    saves: bool
    prefetches: bool


WAYS = {
    "prompt": Way("the whole prompt", "prompt", saves=False, prefetches=False),
    "auto": Way("auto, saved and prefetched", "auto", saves=True, prefetches=True),
}


def replay(
    engine: Engine,
    name: str,
    sessions: Sequence[Sequence[RagPrompt]],
    router: str,
    told: Callable[[], None],
    way: Way,
    **options: Any,
) -> dict[str, Any]:
    """A row: all sessions' first turns, then all second ones, each with kvquilt and without.

    Between two requests the router gets the time to store what it has queued, as the pause of a reader would give it.
    """
    pairs: list[tuple[RagPrompt, Shot, Shot]] = []
    with Client(router) as client:
        for turn in range(max(map(len, sessions))):
            for session in sessions:
                if turn < len(session):
                    on = engine.on(session[turn], way.extent, save=way.saves, **options)
                    settle(client)
                    pairs.append((session[turn], engine.off(session[turn]), on))
                    told()
    return {"asked": way.name, **row(engine.name, name, len(sessions), pairs)}


def row(engine: str, name: str, sessions: int, pairs: Sequence[tuple[RagPrompt, Shot, Shot]]) -> dict[str, Any]:
    """Sums over all requests; hit rates are shares of all prompts' tokens."""
    tokens = sum(len(prompt.token_ids) for prompt, _, _ in pairs)
    exact = sum(on.tokens.get("exact", 0) for _, _, on in pairs)
    blended = sum(on.tokens.get("reused", 0) + on.tokens.get("recomputed", 0) for _, _, on in pairs)
    off_s, on_s = sum(off.ttft_s for _, off, _ in pairs), sum(on.ttft_s for _, _, on in pairs)
    return {
        "engine": engine,
        "sessions": f"{sessions} {name}",
        "requests": len(pairs),
        "prompt_tokens": tokens,
        "hit_rate_exact": exact / tokens,
        "hit_rate_blended": blended / tokens,
        "ttft_off_s_sum": off_s,
        "ttft_on_s_sum": on_s,
        "time_saved": 1 - on_s / off_s,
        "first_token_kl": median(off.first.kl(on.first) for _, off, on in pairs),
    }


def settle(client: Client) -> None:
    """Wait until the router's background work stands still."""
    before, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        counters = client.status().counters
        done = sum(counters[name] for name in counters if name.startswith(STORING))
        if done != before:
            before, since = done, time.monotonic()
        time.sleep(0.1)
