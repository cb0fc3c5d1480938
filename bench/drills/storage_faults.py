"""Faults of object storage that is there: it refuses for a while, dawdles, or its connections break."""

import asyncio

from drills.http_faults import FaultyHttp, Harm
from drills.load import Load
from drills.stage import Outcome, Stage


async def s3_slow_down(stage: Stage) -> Outcome:
    """S3 answers 503 (SlowDown) to seven of ten requests for a while."""
    return await _harmed(stage, Harm.SLOW_DOWN)


async def s3_slow(stage: Stage) -> Outcome:
    """S3 gives seven of ten answers at 64 KiB/s for a while: larger objects take longer than a request may."""
    return await _harmed(stage, Harm.SLOW)


async def s3_truncated(stage: Stage) -> Outcome:
    """S3 ends seven of ten answers in the middle for a while."""
    return await _harmed(stage, Harm.TRUNCATED)


async def s3_resets(stage: Stage) -> Outcome:
    """Connections to S3 are reset in the middle of seven of ten answers for a while, then of requests."""
    return await _harmed(stage, Harm.RESET_ANSWER, Harm.RESET_REQUEST)


async def _harmed(stage: Stage, *harms: Harm) -> Outcome:
    server = stage.place.s3()
    faulty = FaultyHttp(server.port, stage.seed)
    async with faulty.serving() as endpoint:
        settings = stage.place.s3_settings(server, endpoint)
        await asyncio.to_thread(stage.place.node, *settings)  # it speaks to the proxy, which runs in this loop

        async def fault(load: Load) -> float:
            for harm in harms:
                faulty.harm = harm
                await asyncio.sleep(stage.seconds / 2)
            faulty.harm = Harm.NONE
            return await load.recovery(0)

        outcome = await stage.play(fault)
    if not faulty.harmed:
        raise RuntimeError("expected requests that were harmed; none was")
    return outcome
