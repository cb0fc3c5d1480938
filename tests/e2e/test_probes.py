"""Two thousand probes of one tenant for another's objects (`make probes` makes 100,000, and times look-ups)."""

from pathlib import Path

from probes.run import run


async def test_probes_of_another_tenants_objects_find_nothing_and_change_nothing(tmp_path: Path) -> None:
    outcome = await run(tmp_path, probes=2000, calls=0, seed=0, objects=60)
    assert outcome.problems == []
    assert sum(one.probes for one in outcome.probed) >= 2000
    assert sum(one.controls for one in outcome.probed) > 500
