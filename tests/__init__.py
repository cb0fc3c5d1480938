"""Tests of all components.

Workers of pytest-xdist share the machine's cores, with each other and with the processes that they start: one thread of
OpenMP each. With more, small tensors take many times the CPU time, since threads wait for each other in spinning loops.
"""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
