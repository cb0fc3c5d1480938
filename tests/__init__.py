"""Tests of all components.

Threads of OpenMP that wait for each other sleep: spinning, as they do otherwise, they take many times the CPU time
where several processes share the cores. Workers of pytest-xdist, and what they start, have one thread each.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
