"""Keys that are pressed while a screen is drawn."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def keys_read(pressed: Callable[[str], None]) -> Iterator[None]:
    """Tell of each key within this context, without waiting for a line; nothing where there is no terminal to read.

    Args:
        pressed: told of what was typed, in the event loop that runs.
    """
    if not sys.stdin.isatty():
        yield
        return
    import termios  # not on Windows, where a console is no such terminal
    import tty

    file = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)

    def read() -> None:
        typed = os.read(file, 64)
        if not typed:
            loop.remove_reader(file)  # the terminal is gone
        for key in typed.decode("utf-8", "replace"):
            pressed(key)

    loop.add_reader(file, read)
    try:
        yield
    finally:
        loop.remove_reader(file)
        termios.tcsetattr(file, termios.TCSADRAIN, before)
