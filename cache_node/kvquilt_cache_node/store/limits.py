"""What can have no room: it is refused, and nothing goes for it."""

from typing import NoReturn

from kvquilt_codec.errors import CapacityError


def refuse_size(size: int, reserved: int, capacity: int) -> NoReturn:
    """Refuse what does not fit beside what others are writing.

    Raises:
        CapacityError: always.
    """
    raise CapacityError(
        f"expected an object of at most {capacity - reserved} bytes under the cap of {capacity}; got {size}: "
        "raise the cap",
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
