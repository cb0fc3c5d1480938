"""A soak of seconds (`make soak` takes ten minutes): under faults and evictions nothing is wrong, or left over."""

from pathlib import Path

from soak.run import run


async def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    outcome = await run(tmp_path, seconds=8, seed=3)
    assert outcome.problems == []
    assert sum(outcome.faults.values()) > 0
    assert outcome.requests > 200
    assert len(outcome.samples) > 3
    assert outcome.most["file file_bytes"] > 0
