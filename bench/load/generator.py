"""An open loop: requests begin when it is their time, whatever has become of those before.

A loop that waits for answers asks less of who is slow, and so leaves out of its percentiles what its users would have
waited (Tene, "How not to measure latency": coordinated omission). Here latency counts from the intended beginning.
"""

import asyncio
import random
import time

from kvquilt_codec.errors import KvquiltError
from load.types import LATE, Done, Load

BEHIND = 5.0
"""Seconds beyond a request's deadline after which it is given up here; servers are to answer before."""


async def offered(load: Load, rate: float, seconds: float, rng: random.Random) -> list[Done]:
    """Requests with exponential gaps (a Poisson process) of so many a second on average, each to its end."""
    done: list[Done] = []
    tasks: set[asyncio.Task[None]] = set()
    began = at = time.perf_counter()
    number = 0
    try:
        while (at := at + rng.expovariate(rate)) < began + seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            task = asyncio.create_task(_one(load, number, began, at, done))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        while tasks:
            await asyncio.wait(tasks)
    finally:
        for task in tasks:
            task.cancel()
    return done


async def closed(load: Load, workers: int, seconds: float) -> float:
    """Requests answered a second by workers that ask one after the other: about what can be had."""
    done: list[Done] = []
    began = time.perf_counter()

    async def work(number: int) -> None:
        while (now := time.perf_counter()) < began + seconds:
            await _one(load, number, began, now, done)
            number += workers

    await asyncio.gather(*map(work, range(workers)))
    answered = sum(not one.outcome for one in done)
    return max(answered, 1) / (time.perf_counter() - began)


async def _one(load: Load, number: int, began: float, at: float, done: list[Done]) -> None:
    lag = time.perf_counter() - at
    nbytes, outcome = 0, ""
    try:
        async with asyncio.timeout(load.deadline + BEHIND):
            nbytes = await load.ask(number)
    except KvquiltError as error:
        outcome = error.reason
    except TimeoutError:
        outcome = "given_up"
    seconds = time.perf_counter() - at
    if not outcome and seconds > load.deadline:
        outcome = LATE
    done.append(Done(at - began, lag, seconds, outcome, nbytes))
