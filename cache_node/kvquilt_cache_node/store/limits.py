"""What can have no room: it is refused, and nothing goes for it."""

from typing import NoReturn

from kvquilt_codec.errors import CapacityError


def refuse_size(size: int, taken: int, capacity: int) -> NoReturn:
    """Refuse what does not fit beside what others are writing, and what is pinned.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(
        f"expected an object of at most {capacity - taken} bytes under the cap of {capacity}; got {size}: "
        "raise the cap, or unpin objects",
        reason="over_cap",
    )


def refuse_quota(size: int, reserved: int, namespace: str, cap: int) -> NoReturn:
    """Refuse what does not fit beside what its own namespace is writing.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(
        f"expected an object of at most {cap - reserved} bytes under the cap of namespace {namespace!r}, {cap}; got "
        f"{size}: raise it (node.namespaces)",
        reason="over_quota",
    )


def refuse_share(size: int, namespace: str) -> NoReturn:
    """Refuse what has no room beside the floors of other namespaces.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(
        f"expected room for {size} bytes of namespace {namespace!r} beside what floors keep for the others: lower the "
        "floors (node.namespaces), or raise the cap",
        reason="over_share",
    )


def refuse_pinned(size: int) -> NoReturn:
    """Refuse what has no room beside pinned objects and what they need.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(f"expected room for {size} bytes; pinned objects hold it: unpin some", reason="over_cap")


def refuse_pins(pinned: int, most_bytes: int) -> NoReturn:
    """Refuse pins that would fill the store.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(
        f"expected at most {most_bytes} bytes of pinned objects; {pinned} are pinned, and what was asked for is more "
        "than the rest: unpin some, or raise node.pinned_fraction",
        reason="pins_full",
    )
