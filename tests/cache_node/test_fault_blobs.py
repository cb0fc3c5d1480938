"""Blobs that fail on purpose do it as often as asked, and the same way with the same seed."""

import asyncio

import pytest

from kvquilt_cache_node.store import MemoryBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults, Operation
from kvquilt_codec.errors import BadRequestError, DeadlineError, KvquiltError, UnavailableError
from tests.contracts.blobs_contract import data_of

KEY = bytes(32)
DATA = data_of(1, 1000)


async def opened(operation: Operation = "read", faults: Faults | None = None, seed: int = 0) -> FaultBlobs:
    inner = MemoryBlobs()
    await inner.write(KEY, DATA)
    return FaultBlobs(inner, {} if faults is None else {operation: faults}, seed=seed)


async def outcomes(blobs: FaultBlobs, count: int) -> list[bytes | type[KvquiltError]]:
    found: list[bytes | type[KvquiltError]] = []
    for _ in range(count):
        try:
            found += await blobs.read(KEY)
        except KvquiltError as error:
            found.append(type(error))
    return found


async def test_faults_come_as_often_as_asked_and_repeat_with_their_seed() -> None:
    mixed = Faults(error=0.2, flip=0.3, truncate=0.1, raised=DeadlineError)
    blobs = await opened("read", mixed, seed=5)
    first = await outcomes(blobs, 500)
    assert first == await outcomes(await opened("read", mixed, seed=5), 500)
    assert first != await outcomes(await opened("read", mixed, seed=6), 500)
    assert blobs.done["error"] == first.count(DeadlineError)
    for name, share in (("error", 0.2), ("flip", 0.3 * 0.8), ("truncate", 0.1 * 0.8)):
        assert blobs.done[name] / 500 == pytest.approx(share, abs=0.07)


async def test_a_flip_is_one_bit_and_a_truncation_an_end_of_the_longest_item() -> None:
    blobs = await opened("read", Faults(flip=1))
    for _ in range(20):
        short, long = await blobs.read(KEY, [(0, 10), (10, 1000)])
        assert short == DATA[:10]
        changed = [before ^ after for before, after in zip(DATA[10:], long, strict=True) if before != after]
        assert len(changed) == 1
        assert changed[0].bit_count() == 1
    blobs.faults = {"read": Faults(truncate=1)}
    for _ in range(20):
        short, long = await blobs.read(KEY, [(0, 10), (10, 1000)])
        assert short == DATA[:10]
        assert len(long) < 990
        assert DATA[10:].startswith(long)
    assert await blobs.read(KEY, []) == []


@pytest.mark.parametrize("operation", ["write", "delete", "sizes"])
async def test_an_error_does_nothing_and_a_lost_answer_does_everything(operation: Operation) -> None:
    blobs = await opened(operation, Faults(error=1))
    calls = {"write": lambda: blobs.write(KEY, b"new"), "delete": lambda: blobs.delete(KEY), "sizes": blobs.sizes}
    with pytest.raises(UnavailableError, match="on purpose"):
        await calls[operation]()
    assert await blobs.read(KEY) == [DATA]
    blobs.faults = {operation: Faults(lost_answer=1)}
    with pytest.raises(UnavailableError, match="on purpose"):
        await calls[operation]()
    blobs.faults = {}
    assert await blobs.sizes() == {"write": {KEY: 3}, "delete": {}, "sizes": {KEY: 1000}}[operation]


async def test_a_blackhole_answers_nobody_until_it_is_closed() -> None:
    blobs = await opened("read", Faults(blackhole=1))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(blobs.read(KEY), 0.05)
    waiting = asyncio.create_task(blobs.read(KEY))
    await asyncio.sleep(0)
    assert await blobs.sizes() == {KEY: 1000}, "other operations answer"
    await blobs.close()
    with pytest.raises(UnavailableError):
        await waiting


async def test_latency_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    blobs = await opened("read", Faults(latency=3, slow=0.5))
    monkeypatch.setattr("kvquilt_cache_node.store.fault.asyncio.sleep", sleep)
    await outcomes(blobs, 100)
    assert 25 < len(waited) < 75
    assert set(waited) == {3}


def test_probabilities_are_probabilities() -> None:
    with pytest.raises(BadRequestError, match="flip"):
        Faults(flip=1.5)
