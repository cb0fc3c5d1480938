"""What calls that change what is stored give back."""

from dataclasses import dataclass

from kvquilt.states import GatePointStatus


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What a forget deleted.

    Attributes:
        objects_deleted: objects that nobody reads any more.
        bytes_deleted: their size.
        objects_kept_shared: objects that stay because other documents hold the same text.
        objects_pending: of the deleted ones, those whose bytes a store could not delete yet; nodes try again.
    """

    objects_deleted: int
    bytes_deleted: int
    objects_kept_shared: int
    objects_pending: int


@dataclass(frozen=True, slots=True)
class PinReport:
    """What was pinned, or unpinned.

    Attributes:
        objects: that are pinned now, or were until now.
        pinned_bytes: on all nodes together; zero for callers that may not see all, as is the limit.
        limit_bytes: most bytes that may be pinned.
    """

    objects: int
    pinned_bytes: int
    limit_bytes: int


@dataclass(frozen=True, slots=True)
class LiftReport:
    """What became of a lifted withdrawal.

    Attributes:
        point: as it is now.
        nodes_stored: nodes that keep it, from which other routers learn it.
        nodes: that were told.
        unstored_reason: why some do not keep it; the router goes on telling them. Empty: all do.
    """

    point: GatePointStatus
    nodes_stored: int
    nodes: int
    unstored_reason: str
