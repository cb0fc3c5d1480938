"""What audits found of a gate's points, as several routers know it: states that merge. Pure computation.

A point's state is a grow-only counter (G-counter: Shapiro et al., "A comprehensive study of convergent and commutative
replicated data types", INRIA RR-7506, 2011, section 3.1.1): each router has its own entry, of which the one with most
audits is the latest. States are merged in any order, any number of times; no audit is counted twice.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated

import msgspec

from kvquilt_codec.gate.types import Gate, Hex32, Name, Share

Key = tuple[str, float, str, str]
"""`GatePoint.key`: policy, recompute ratio, context, level."""

MAX_POINTS = 4096
MAX_REPLICAS = 64
"""Routers that a point keeps apart; with more of them the older half is folded into one tally."""
MAX_ENTRIES = 8192
"""Of all points together: with many points, each keeps fewer routers apart."""
FIRST_REPLICA = "0" * 28
"""Sorts before all replicas."""
_CLOCK_DIGITS = 12
_LATEST = (1 << 44) - 1
"""Milliseconds: the year 2527."""
_MOST = 1 << 31

Replica = Annotated[str, msgspec.Meta(pattern="^0[0-9a-f]{27}$")]
"""A router from its start on: milliseconds since the epoch as 12 hex digits, and 16 random digits. Sorts by start."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MOST)]


class Tally(msgspec.Struct, frozen=True, array_like=True, order=True, forbid_unknown_fields=True):
    """Audits of one operating point: how many, and how many of them beyond its bound. The greater is the later."""

    audits: _Count = 0
    exceeded: _Count = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(min(self.audits + other.audits, _MOST), min(self.exceeded + other.exceeded, _MOST))


class PointAudits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of one operating point.

    Attributes:
        policy, recompute_ratio, context, level: which; see `GatePoint`.
        lifts: how often an operator lifted its withdrawal. Each begins anew: what was known before counts no more.
        withdrawn: whether it is not to be used.
        folded_until: replicas up to this one are in `folded`, and nowhere else.
        folded: their tallies.
        replicas: tallies of later ones.
    """

    policy: Name
    recompute_ratio: Share
    context: str
    level: Name
    lifts: _Count = 0
    withdrawn: bool = False
    folded_until: Replica = FIRST_REPLICA
    folded: Tally = Tally()
    replicas: Annotated[dict[Replica, Tally], msgspec.Meta(max_length=MAX_REPLICAS)] = {}

    @property
    def key(self) -> Key:
        """Which point it is of."""
        return self.policy, self.recompute_ratio, self.context, self.level

    @property
    def total(self) -> Tally:
        """Audits of all routers since the last lift."""
        return sum(self.replicas.values(), self.folded)

    def merged(self, other: "PointAudits") -> "PointAudits":
        """What both know."""
        if self.lifts != other.lifts:
            return max(self, other, key=lambda state: state.lifts)
        folder = max(self, other, key=lambda state: (state.folded_until, state.folded))
        replicas = dict(self.replicas)
        for replica, tally in other.replicas.items():
            replicas[replica] = max(tally, replicas.get(replica, Tally()))
        # Whoever is folded may have had audits that the folder did not know: then they are lost, but none counts twice.
        replicas = {replica: tally for replica, tally in replicas.items() if replica > folder.folded_until}
        return msgspec.structs.replace(folder, withdrawn=self.withdrawn or other.withdrawn, replicas=replicas)

    def kept(self, most: int) -> "PointAudits":
        """This, with at most so many replicas apart; if there are more, the older ones are folded, down to half."""
        if len(self.replicas) <= most:
            return self
        order = sorted(self.replicas)
        cut = len(order) - most // 2
        folded = sum((self.replicas[replica] for replica in order[:cut]), self.folded)
        replicas = {replica: self.replicas[replica] for replica in order[cut:]}
        return msgspec.structs.replace(self, folded_until=order[cut - 1], folded=folded, replicas=replicas)


class GateAudits(msgspec.Struct, frozen=True, tag_field="kind", tag="audits", forbid_unknown_fields=True):
    """What audits found of one gate, and of no other.

    Attributes:
        gate: its address; see `file.identity`.
        model_fingerprint, profile_digest: what it was measured of.
        points: those of which anything is known, no two with the same key.
    """

    gate: Hex32
    model_fingerprint: Hex32
    profile_digest: Hex32
    points: Annotated[tuple[PointAudits, ...], msgspec.Meta(max_length=MAX_POINTS)] = ()

    def by_key(self) -> dict[Key, PointAudits]:
        """Its points, by their keys."""
        return {point.key: point for point in self.points}

    def with_points(self, points: Mapping[Key, PointAudits]) -> "GateAudits":
        """The same of these points, in an order and a size of their own: equal knowledge gives equal states.

        Of more than `MAX_POINTS`, which no gate has, those that are withdrawn stay first.
        """
        keys = sorted(sorted(points, key=lambda key: (not points[key].withdrawn, key))[:MAX_POINTS])
        most = max(1, min(MAX_REPLICAS, MAX_ENTRIES // max(1, len(keys))))
        return msgspec.structs.replace(self, points=tuple(points[key].kept(most) for key in keys))

    def merged(self, other: "GateAudits") -> "GateAudits":
        """What both know. Both are of the same gate."""
        points = self.by_key()
        for point in other.points:
            known = points.get(point.key)
            points[point.key] = point if known is None else known.merged(point)
        return self.with_points(points)

    def of(self, gate: Gate) -> "GateAudits":
        """What it says of points that a gate has."""
        keys = {point.key for point in gate.points}
        return self.with_points({key: point for key, point in self.by_key().items() if key in keys})


def new_replica(now: float, after: str = FIRST_REPLICA) -> str:
    """A replica that starts now, later than another one.

    Args:
        now: seconds since the epoch.
        after: the other one, whose clock may be ahead.
    """
    milliseconds = min(max(int(now * 1000), int(after[:_CLOCK_DIGITS], 16) + 1), _LATEST)
    return f"{milliseconds:0{_CLOCK_DIGITS}x}{secrets.token_hex(8)}"
