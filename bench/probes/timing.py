"""Whether look-up times tell a tenant what another has stored.

The prober asks for keys that the owner has stored and for keys that nobody has, the same number in each call, in pairs
of a call each in random order: what else the machine does comes to both. The control is the owner, for whom times may
differ.
"""

import itertools
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inference import Interval, Sample, kolmogorov_smirnov_p, median_of, rank_sum_p
from kvquilt_codec.errors import NotFoundError
from kvquilt_rpc.node_client import NodeClient
from probes.asking import chunk_keys_of, prints_of
from probes.tenants import DEADLINE, Owned
from tests.codec.samples import FINGERPRINT
from tests.codec.samples import PREFIX as PREFIX_DIGEST

ALPHA = 0.01
MARGIN = 0.05
"""Share by which times may differ and count as the same."""
KEYS = 16
"""Of a call: sixteen times the difference that one would make, over the noise of one call."""
UNMEASURED = 50

Ask = Callable[[NodeClient, Sequence[bytes]], Awaitable[None]]


async def _stat(node: NodeClient, keys: Sequence[bytes]) -> None:
    await node.stat(keys, deadline=DEADLINE)


async def _variants(node: NodeClient, keys: Sequence[bytes]) -> None:
    await node.find_variants(keys, FINGERPRINT, PREFIX_DIGEST, deadline=DEADLINE)


async def _fingerprints(node: NodeClient, prints: Sequence[bytes]) -> None:
    await node.find_chunks(prints, FINGERPRINT, deadline=DEADLINE)


async def _read(node: NodeClient, keys: Sequence[bytes]) -> None:
    try:
        async for _ in node.get(keys[0], FINGERPRINT, deadline=DEADLINE):
            pass
    except NotFoundError:
        pass


KINDS: dict[str, tuple[Ask, Callable[[Owned], list[bytes]]]] = {
    "stat": (_stat, lambda owned: owned.keys),
    "variants": (_variants, chunk_keys_of),
    "fingerprints": (_fingerprints, prints_of),
    "read": (_read, lambda owned: owned.keys),
}


@dataclass(frozen=True)
class Times:
    """Seconds of calls for what is stored and for what is not.

    Attributes:
        what: index and kind of call.
        who: asked.
        stored: seconds of each call for keys of the owner.
        absent: seconds of the call for keys that nobody has which is its pair.
        family: tests that are made in this run, for which a p-value is corrected (Bonferroni).
    """

    what: str
    who: str
    stored: Sample
    absent: Sample
    family: int

    @property
    def p_values(self) -> tuple[float, float]:
        """Of Mann-Whitney's and Kolmogorov's and Smirnov's tests, two-sided and corrected."""
        found = (rank_sum_p(self.stored, self.absent), kolmogorov_smirnov_p(self.stored, self.absent))
        return min(1.0, self.family * found[0]), min(1.0, self.family * found[1])

    @property
    def different(self) -> bool:
        """Whether either test tells the two apart."""
        return min(self.p_values) < ALPHA

    @property
    def difference(self) -> Interval:
        """How much longer stored keys take than absent ones, as a share: the median of pairs."""
        return median_of(self.stored / self.absent - 1, ALPHA)

    def row(self) -> dict[str, Any]:
        """Of the table."""
        difference = self.difference
        rank_sum, distance = self.p_values
        return {
            "look_up": self.what,
            "asked_by": self.who,
            "calls": len(self.stored) + len(self.absent),
            "stored_us": float(np.median(self.stored)) * 1e6,
            "absent_us": float(np.median(self.absent)) * 1e6,
            "p_rank_sum": rank_sum,
            "p_kolmogorov_smirnov": distance,
            "difference_low": difference.low,
            "difference_high": difference.high,
            "different": self.different,
            "same_within_margin": difference.within(MARGIN),
        }


async def measured(
    index: str, kind: str, who: str, node: NodeClient, owned: Owned, calls: int, seed: int, family: int
) -> Times:
    """Ask `calls` times for stored and as often for absent keys."""
    ask, wanted = KINDS[kind]
    draw = random.Random(f"{seed} {index} {kind} {who}")
    known = wanted(owned)
    pairs = [draw.choice(((True, False), (False, True))) for _ in range(UNMEASURED + calls)]
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for at, stored in enumerate(itertools.chain(*pairs)):
        keys = draw.sample(known, KEYS) if stored else [secrets.token_bytes(len(known[0])) for _ in range(KEYS)]
        began = time.perf_counter()
        await ask(node, keys)
        if at >= 2 * UNMEASURED:
            seconds[stored].append(time.perf_counter() - began)
    return Times(f"{index}, {kind}", who, np.array(seconds[True]), np.array(seconds[False]), family)
