"""The quickest failure drills (`make drills` runs all): each fault is noticed, and nothing goes wrong by it."""

from pathlib import Path

import pytest

from drills.run import run

QUICK = {"kill-node-mid-put": "unavailable", "bit-flips": "checksum", "pause-redis": "deadline"}
"""By drill the reason of some misses: without them nothing would have happened."""


@pytest.mark.parametrize("name", QUICK)
async def test_in_a_drill_no_request_fails_no_byte_is_wrong_and_nothing_acknowledged_is_lost(
    tmp_path: Path, name: str
) -> None:
    outcome = await run(name, tmp_path, seconds=1.0, seed=1)
    assert outcome.problems == []
    assert outcome.missed[QUICK[name]] > 0
    assert outcome.requests > 20
