"""The write queue: what is acknowledged survives, what is forgotten is never written, and a full queue holds back."""

import asyncio
import shutil
from pathlib import Path

import pytest

from kvquilt_cache_node.store import FileBlobs
from kvquilt_cache_node.store.fault import FaultBlobs, Faults
from kvquilt_codec.errors import NotFoundError, UnavailableError
from tests.cache_node.queued import QueuedNode
from tests.cache_node.stacks import until, write_back
from tests.contracts.store_objects import data_of, key_of

ONE, TWO = key_of(1), key_of(2)


@pytest.fixture
async def node(tmp_path: Path) -> QueuedNode:
    running = QueuedNode(tmp_path)
    running.start()
    return running


# What is acknowledged


async def test_writes_are_acknowledged_and_read_while_the_store_is_down_and_get_there_later(node: QueuedNode) -> None:
    node.cold.down = True
    for number in range(5):
        await node.blobs.write(key_of(number), data_of(number, 1000))
        assert await node.blobs.read(key_of(number)) == [data_of(number, 1000)]
        assert await node.blobs.read(key_of(number), [(990, 1000), (0, 3)]) == [
            data_of(number, 1000)[990:],
            data_of(number, 3),
        ]
    assert (node.count("queue_entries"), node.count("queue_bytes"), node.count("queue_hits")) == (5, 5000, 10)
    assert node.count("queue_oldest_at") > 1_600_000_000
    node.cold.down = False
    await node.worked_off()
    assert await node.cold.has() == {key_of(number): data_of(number, 1000) for number in range(5)}
    assert (node.count("queue_bytes"), node.count("queue_oldest_at"), node.count("queue_flushed")) == (0, 0, 5)
    assert node.count("queue_retries") > 0
    await node.blobs.close()


async def test_what_was_acknowledged_survives_a_kill_and_is_worked_off_after_it(node: QueuedNode) -> None:
    node.cold.down = True
    for number in range(3):
        await node.blobs.write(key_of(number), data_of(number, 700))
    await node.kill()
    node.start(started=False)
    assert node.count("queue_entries") == 3
    assert await node.blobs.read(TWO) == [data_of(2, 700)]
    node.cold.down = False
    assert await node.blobs.sizes() == {key_of(number): 700 for number in range(3)}
    node.blobs.start()
    await node.worked_off()
    assert await node.cold.has() == {key_of(number): data_of(number, 700) for number in range(3)}
    await node.blobs.close()


async def test_a_close_ends_in_time_and_leaves_the_rest_in_the_queue(node: QueuedNode) -> None:
    node.cold.gate.going.clear()
    await node.blobs.write(ONE, data_of(1, 10))
    await node.blobs.close()
    with pytest.raises(UnavailableError, match="closed"):
        await node.blobs.read(ONE)
    node.cold.gate.going.set()
    node.start()
    await node.worked_off()
    assert await node.cold.has() == {ONE: data_of(1, 10)}
    await node.blobs.close()


# What is forgotten


async def test_what_is_deleted_while_it_waits_is_never_written_also_after_a_kill(node: QueuedNode) -> None:
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 10))
    await node.blobs.write(TWO, data_of(2, 10))
    await node.blobs.delete(ONE)
    with pytest.raises(NotFoundError):
        await node.blobs.read(ONE)
    await node.kill()
    node.start(started=False)
    with pytest.raises(NotFoundError):
        await node.blobs.read(ONE)
    node.cold.down = False
    node.blobs.start()
    await node.worked_off()
    assert await node.cold.has() == {TWO: data_of(2, 10)}
    assert ("write", ONE) not in node.cold.gate.calls
    await node.blobs.close()


async def test_a_delete_of_what_the_store_has_is_queued_while_it_is_down(node: QueuedNode) -> None:
    await node.blobs.write(ONE, data_of(1, 10))
    await node.worked_off()
    node.cold.down = True
    await node.blobs.delete(ONE)
    await node.kill()
    node.start(started=False)
    with pytest.raises(NotFoundError):
        await node.blobs.read(ONE)
    node.cold.down = False
    assert ONE not in await node.blobs.sizes()
    node.blobs.start()
    await node.worked_off()
    assert await node.cold.has() == {}
    await node.blobs.close()


async def test_a_delete_is_carried_out_behind_the_queue_when_it_returns_if_that_can_be(node: QueuedNode) -> None:
    await node.blobs.write(ONE, data_of(1, 10))
    await node.blobs.delete(ONE)
    assert await node.cold.has() == {}
    assert node.count("queue_entries") == 0
    await node.blobs.close()


@pytest.mark.parametrize("killed", [False, True])
async def test_the_last_of_put_forget_put_counts_while_the_first_is_being_flushed(
    node: QueuedNode, killed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvquilt_cache_node.store.write_back._PATIENCE", 0.02)
    node.cold.gate.going.clear()
    await node.blobs.write(ONE, data_of(1, 10))
    await until(lambda: node.cold.gate.calls)
    await node.blobs.delete(ONE)  # waits for what is being flushed only so long
    await node.blobs.write(ONE, data_of(2, 20))
    assert await node.blobs.read(ONE) == [data_of(2, 20)]
    if killed:
        await node.kill()
        node.start()
    node.cold.gate.going.set()
    await node.worked_off()
    assert await node.cold.has() == {ONE: data_of(2, 20)}
    await node.blobs.close()


async def test_deletes_go_first_for_they_make_the_room_that_writes_were_promised(node: QueuedNode) -> None:
    await node.blobs.write(ONE, data_of(1, 10))
    await node.worked_off()
    node.cold.down = True
    for number in (2, 3):
        await node.blobs.write(key_of(number), data_of(number, 10))
    await node.blobs.delete(ONE)
    await node.kill()
    node.start(started=False)
    node.cold.down = False
    node.blobs.start()
    await node.worked_off()
    assert node.cold.gate.calls[0] == ("delete", ONE)
    assert set(await node.cold.has()) == {TWO, key_of(3)}
    await node.blobs.close()


# Bounds


@pytest.mark.parametrize("bounds", [{"max_bytes": 100}, {"max_entries": 1}])
async def test_a_full_queue_writes_through_and_refuses_what_the_store_refuses(
    tmp_path: Path, bounds: dict[str, int]
) -> None:
    node = QueuedNode(tmp_path)
    node.start(**bounds)
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 100))
    with pytest.raises(UnavailableError):
        await node.blobs.write(TWO, data_of(2, 100))
    assert await node.blobs.read(ONE) == [data_of(1, 100)]
    assert (node.count("queue_entries"), node.count("queue_full")) == (1, 1)
    node.cold.down = False
    await node.worked_off()
    node.cold.gate.going.clear()
    await node.blobs.write(ONE, data_of(3, 100))
    through = asyncio.create_task(node.blobs.write(TWO, data_of(2, 100)))
    await asyncio.sleep(0.05)
    assert not through.done(), "acknowledged by the store itself"
    node.cold.gate.going.set()
    await through
    assert (await node.cold.has())[TWO] == data_of(2, 100)
    await node.worked_off()
    await node.blobs.close()


async def test_deletes_that_find_the_queue_full_are_carried_out_or_refused(tmp_path: Path) -> None:
    node = QueuedNode(tmp_path)
    node.start(max_entries=1)
    for number in range(3):
        await node.cold.held.write(key_of(number), data_of(number, 10))
    node.cold.down = True
    await node.blobs.delete(key_of(0))
    await node.blobs.delete(key_of(1))
    with pytest.raises(UnavailableError):
        await node.blobs.delete(key_of(2))
    node.cold.down = False
    await node.worked_off()
    assert set(await node.cold.has()) == {key_of(2)}
    await node.blobs.close()


async def test_a_queue_that_cannot_be_written_lets_writes_and_deletes_through(node: QueuedNode) -> None:
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 10))
    shutil.rmtree(node.place / "tmp")
    with pytest.raises(UnavailableError):
        await node.blobs.write(TWO, data_of(2, 10))
    with pytest.raises(UnavailableError):
        await node.blobs.delete(ONE)
    node.cold.down = False
    await node.blobs.write(TWO, data_of(2, 10))
    assert (await node.cold.has())[TWO] == data_of(2, 10)
    for key in (ONE, TWO):
        await node.blobs.delete(key)
    await node.worked_off()
    assert await node.cold.has() == {}
    await node.blobs.close()


async def test_a_store_that_hangs_holds_up_one_delete_not_all(
    node: QueuedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        await node.blobs.write(key_of(number), data_of(number, 10))
    await node.worked_off()
    node.cold.gate.going.clear()
    node.cold.gate.calls.clear()
    monkeypatch.setattr("kvquilt_cache_node.store.write_back._PATIENCE", 0.02)
    await node.blobs.delete(key_of(0))
    monkeypatch.setattr("kvquilt_cache_node.store.write_back._PATIENCE", 10_000.0)
    for number in (1, 2):
        await node.blobs.delete(key_of(number))
    for number in range(3):
        with pytest.raises(NotFoundError):
            await node.blobs.read(key_of(number))
    node.cold.gate.going.set()
    await node.worked_off()
    assert await node.cold.has() == {}
    await node.blobs.close()


async def test_files_behind_a_queue_are_as_they_were_acknowledged_whatever_is_killed_when(tmp_path: Path) -> None:
    """Copies of the folder, taken at any moment as a kill would leave it, hold the last that was acknowledged."""
    cold = FileBlobs(tmp_path / "cold", fsync=False)
    slow = FaultBlobs(cold, {"write": Faults(latency=0.003), "delete": Faults(latency=0.003)})
    blobs = write_back(slow, tmp_path / "queue", max_entries=4)
    acknowledged: dict[bytes, bytes | None] = {}
    taken = 0
    for step in range(60):
        key = key_of(step * 7 % 5)
        data = None if step % 3 == 2 else data_of(step, 50 + step)
        await (blobs.delete(key) if data is None else blobs.write(key, data))
        acknowledged[key] = data
        if step % 10 == 9:
            copy = tmp_path / f"copy {step}"
            for _ in range(20):  # the flusher may rename and delete while the tree is copied
                shutil.rmtree(copy, ignore_errors=True)
                entries = sorted(path.name for path in (tmp_path / "queue/entries").iterdir())
                try:
                    shutil.copytree(tmp_path / "queue", copy / "queue")
                    shutil.copytree(tmp_path / "cold", copy / "cold")
                except shutil.Error:
                    continue
                if entries == sorted(path.name for path in (tmp_path / "queue/entries").iterdir()):
                    break
            taken += 1
            again = write_back(FileBlobs(copy / "cold", fsync=False), copy / "queue")
            assert await again.sizes() == {key: len(data) for key, data in acknowledged.items() if data is not None}
            await again.close()
            there = FileBlobs(copy / "cold", fsync=False)
            for known, expected in acknowledged.items():
                if expected is not None:
                    assert await there.read(known) == [expected]
            await there.close()
    assert taken == 6
    await blobs.close()
