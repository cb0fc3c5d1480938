"""How a router, its models and its nodes are, as it tells of them."""

from dataclasses import dataclass

from kvquilt_codec.profile import LevelCard
from kvquilt_codec.types import KVLayout


@dataclass(frozen=True, slots=True)
class ProfileStatus:
    """The codec profile in force for a model.

    Attributes:
        digest: hex SHA-256 of its file.
        miss_reason: why documents are missed; empty if the profile is at hand.
        levels: what calibration measured, the finest level first.
        texts: what it was calibrated on.
    """

    digest: str
    miss_reason: str
    levels: tuple[LevelCard, ...]
    texts: str


@dataclass(frozen=True, slots=True)
class GatePointStatus:
    """One measured way to blend, and what audits of it found. Further fields as in `kvquilt_codec.gate.GatePoint`.

    Attributes:
        audits: of all routers since the last lift.
        audits_exceeded: those that found more than `kl_upper`.
        withdrawn: it is not used any more.
        lifts: how often it was withdrawn and an operator let it be used again.
    """

    policy: str
    recompute_ratio: float
    context: str
    level: str
    cases: int
    kl_geomean: float
    kl_upper: float
    top1_agreement: float
    cpu_share: float
    audits: int
    audits_exceeded: int
    withdrawn: bool
    lifts: int


@dataclass(frozen=True, slots=True)
class GateStatus:
    """The blend gate in force for a model.

    Attributes:
        missing_reason: why there is none in force: chunks are then used in their exact context only; empty if one is.
        points: what was measured.
        texts: on what.
        source: where it came from: the file's path, or "node".
    """

    missing_reason: str
    points: tuple[GatePointStatus, ...]
    texts: str
    source: str


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model that the router serves; without a profile its levels are `lossless` and `high`."""

    name: str
    fingerprint: str
    architecture: str
    layout: KVLayout
    max_context_tokens: int
    profile: ProfileStatus | None
    gate: GateStatus


@dataclass(frozen=True, slots=True)
class Tier:
    """A part of a node's store: "memory", "hot", "queue" or "store"; bytes now, and the most that they may be."""

    name: str
    used_bytes: int
    capacity_bytes: int


@dataclass(frozen=True, slots=True)
class Queue:
    """Work that waits in a router: "background", "audits", "blends", "loads", or "saves" (in bytes)."""

    name: str
    length: int
    limit: int


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A cache node as the router sees it. Calls, objects and bytes are zeros for callers that may not see all.

    Attributes:
        target: its address.
        reachable: it answered just now; otherwise what it says of itself is missing: store, bytes, kernels.
        serving: false while it drains.
        breaker: "closed": it is called; "open": it is left alone; "half_open": one call may try it.
        outstanding: calls of the router that run now.
        calls: of the router since the node became a member.
        failures: of those, calls that found no node or no answer in time.
        pinned_bytes: of objects that are kept from eviction.
        pending_deletions: keys whose bytes are to be deleted still.
        round_trip_seconds: what the router's latest health probe took; `None`: none was answered yet.
        tiers: what its store is made of, the fastest first.
    """

    target: str
    reachable: bool
    serving: bool
    breaker: str
    outstanding: int
    calls: int
    failures: int
    store: str
    objects: int
    used_bytes: int
    capacity_bytes: int
    kernels: str
    pinned_bytes: int
    pending_deletions: int
    round_trip_seconds: float | None = None
    tiers: tuple[Tier, ...] = ()


@dataclass(frozen=True, slots=True)
class Status:
    """How the router and its nodes are; `usage` has the sums of the caller's own namespaces.

    `counters` and `queues` are empty for callers that may not see all. `unix_seconds` is the router's clock.
    """

    version: str
    models: tuple[ModelInfo, ...]
    policies: tuple[str, ...]
    default_policy: str
    default_recompute_ratio: float | None
    default_level: str
    default_max_kl: float
    ungated: bool
    counters: dict[str, int]
    nodes: tuple[NodeStatus, ...]
    usage: dict[str, dict[str, int]]
    queues: tuple[Queue, ...] = ()
    unix_seconds: float = 0.0
