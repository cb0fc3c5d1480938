"""What the demo starts ends with it."""

import signal
import subprocess
import sys

SCRIPT = """
import time
from kvquilt.demo.server import exiting_on_sigterm
with exiting_on_sigterm():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        print("ended", flush=True)
"""


def test_a_terminated_block_ends_what_it_began():
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "ended\n"
    assert process.returncode == 128 + signal.SIGTERM
