"""The quickest failure drills (`make drills` runs all): each fault is noticed, and nothing goes wrong by it."""

import shutil
from pathlib import Path

import pytest

from drills.run import run
from tests import servers

QUICK = {
    "kill-node-mid-put": "unavailable",
    "bit-flips": "checksum",
    "pause-redis": "deadline",
    "s3-truncated": "unavailable",
    "queue-kill-node": "unavailable",
    "clock-jumps-of-a-node": "unavailable",
    "tls-certificates-expire": "tls_handshake",
    "router-kill-redis": "node_unavailable",
}
"""By drill the reason of some misses: without them nothing would have happened."""


@pytest.mark.parametrize("name", QUICK)
async def test_in_a_drill_no_request_fails_no_byte_is_wrong_and_nothing_acknowledged_is_lost(
    tmp_path: Path, name: str
) -> None:
    if name.startswith("tls") and servers.REDIS is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    if name.startswith("clock") and not (shutil.which("c++") or shutil.which("g++")):
        pytest.skip("there is no C++ compiler: apt-get install g++")
    outcome = await run(name, tmp_path, seconds=1.0, seed=1)
    assert outcome.problems == []
    assert outcome.missed[QUICK[name]] > 0
    assert outcome.requests > 20
