"""What a store must know of encryption."""

from typing import Protocol


class Sealed(Protocol):
    """What a store must know of blobs that are encrypted before they reach a medium, beside `Blobs`."""

    def stored_size(self, size: int) -> int:
        """Bytes that a blob of `size` bytes takes on the medium."""

    async def destroy_key(self, namespace: str) -> bool:
        """Make all blobs of a namespace unreadable for good; `False` if it never had any.

        Raises:
            UnavailableError, DeadlineError: the key could not be destroyed.
        """
