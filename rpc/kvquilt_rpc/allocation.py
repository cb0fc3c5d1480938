"""Memory allocation for processes that move megabytes: keep what is freed instead of giving it back each time."""

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def tune_malloc() -> bool:
    """Let glibc's malloc keep freed buffers of a megabyte and more; `False` where there is no glibc.

    By default each such buffer is mapped anew and its pages are faulted in one by one; bench/bench_ttft.py measures a
    blend both ways. The process keeps its peak memory in return.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    values = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(option, value) == 1 for option, value in values)
