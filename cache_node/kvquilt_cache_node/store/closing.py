"""Whether something may still be used."""

from kvquilt_codec.errors import UnavailableError


class Open:
    """Open until it is closed. `what` names the thing in the error."""

    def __init__(self, what: str) -> None:
        self._what = what
        self.closed = False

    def check(self) -> None:
        """Refuse what is closed.

        Raises:
            UnavailableError: it is closed.
        """
        if self.closed:
            raise UnavailableError(f"expected an open {self._what} store; it is closed: open it again")

    def close(self) -> None:
        """Close it; it may be closed already."""
        self.closed = True
