"""glibc's malloc told to keep freed memory: frames of a mebibyte come and go all the time.

By default an allocation of 128 KiB or more is a mapping of its own, which the kernel makes, fills with zeros page by
page and takes back (`M_MMAP_THRESHOLD`, mallopt(3)). That costs more than what the bytes are needed for:
docs/performance.md, "Allocation", has figures. One threshold without the other brings little or nothing.
"""

import ctypes
import logging
import sys

log = logging.getLogger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 256 << 20
"""Free memory at the end of the heap beyond which the rest goes back to the system."""
_MAPPED_BYTES = 32 << 20
"""Larger allocations are mappings as before; some versions of glibc refuse a higher threshold."""


def keep_freed_memory() -> bool:
    """Set both thresholds for this process; `False`, and nothing is changed, where there is no glibc."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  tells glibc from others
        mallopt = libc.mallopt
    except (OSError, AttributeError):
        log.info("the allocator is left as it is: there is no glibc")
        return False
    mallopt.argtypes, mallopt.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    done = mallopt(_M_MMAP_THRESHOLD, _MAPPED_BYTES) and mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    log.info(
        "the allocator keeps up to %d MiB that are free" if done else "the allocator refuses %d", _KEPT_BYTES >> 20
    )
    return bool(done)
