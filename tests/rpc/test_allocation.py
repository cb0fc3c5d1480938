"""The allocator that keeps freed memory: pages are not asked for anew, and other C libraries are left alone."""

import ctypes
import subprocess
import sys

import pytest

from kvquilt_rpc.allocation import keep_freed_memory

FAULTS = """
import resource, sys
from kvquilt_rpc.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for round in range(40):
    if round == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    frames = [bytearray(4 << 20) for _ in range(3)]
    del frames
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(how: str) -> int:
    return int(subprocess.run([sys.executable, "-c", FAULTS, how], check=True, capture_output=True).stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="there is no glibc")
def test_freed_frames_are_used_again_without_asking_the_system() -> None:
    assert page_faults("kept") * 20 < page_faults("as it is")


def test_without_glibc_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """A C library without what is asked for."""

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    assert keep_freed_memory() is False
