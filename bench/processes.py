"""What Linux tells of other processes."""

import os
from collections.abc import Sequence
from pathlib import Path

_NICE = 10


def yield_cores(pids: Sequence[int]) -> None:
    """Have processes run at a lower priority than this one, which is to keep its time in spite of them."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.setpriority(os.PRIO_PROCESS, int(task.name), _NICE)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time so far of all threads of processes, which Linux counts in nanoseconds; those that ended count as 0."""
    total = 0
    for pid in pids:
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                total += int((task / "schedstat").read_text(encoding="ascii").split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue
    return total / 1e9
