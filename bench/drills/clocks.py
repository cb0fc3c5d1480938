"""Wall clocks of single processes that jump while the processes run."""

import shutil
import struct
import subprocess
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.cpp")
_SECONDS = struct.Struct("=q")


class Clock:
    """The wall clock of the processes that are started with `environment`; the machine's own until it jumps.

    Args:
        folder: for the library that is preloaded, which is compiled now, and for the offset.

    Raises:
        RuntimeError: there is no C++ compiler.
    """

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("c++") or shutil.which("g++")
        if compiler is None:
            raise RuntimeError("expected a C++ compiler for clocks that jump; found none: apt-get install g++")
        folder.mkdir()
        self._offset = folder / "offset"
        self.set(0)
        library = folder / "clock.so"
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, SOURCE, "-ldl"], check=True)
        self.environment = {"LD_PRELOAD": str(library), "DRILL_CLOCK": str(self._offset)}

    def set(self, offset: int) -> None:
        """Let the clock be this many seconds ahead of the machine's, from now on."""
        if not self._offset.exists():
            self._offset.write_bytes(_SECONDS.pack(0))
        with self._offset.open("r+b") as file:
            file.write(_SECONDS.pack(offset))
