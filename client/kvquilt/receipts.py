"""What calls that change what is stored give back."""

from dataclasses import dataclass


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
