"""What calls that change what is stored give back."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForgetReceipt:
    """What a forget did.

    Attributes:
        deleted: keys of the objects that are gone.
        deleted_bytes: their size.
        kept_shared: objects that stay because other documents hold them too.
        pending: of those that are gone, how many have bytes that could not be deleted yet: nobody reads them, and the
            node deletes them as soon as it can.
    """

    deleted: tuple[bytes, ...]
    deleted_bytes: int
    kept_shared: int
    pending: int = 0

    def __add__(self, other: "ForgetReceipt") -> "ForgetReceipt":
        """Both together."""
        return ForgetReceipt(
            self.deleted + other.deleted,
            self.deleted_bytes + other.deleted_bytes,
            self.kept_shared + other.kept_shared,
            self.pending + other.pending,
        )


@dataclass(frozen=True, slots=True)
class PinReceipt:
    """What was pinned, or is pinned no more.

    Attributes:
        keys: of the objects.
        pinned_bytes: that the store has pinned now, in all.
        limit_bytes: most that it may.
    """

    keys: tuple[bytes, ...]
    pinned_bytes: int
    limit_bytes: int
