"""A clock that tests move."""


class Clock:
    """Seconds, as long as nobody moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
