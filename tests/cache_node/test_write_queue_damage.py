"""A write queue whose files were changed, cut, deleted or written by another version: nothing wrong gets behind it."""

from pathlib import Path

import pytest

from kvquilt_cache_node.store.queue_files import HEAD, QueueFiles
from kvquilt_codec.errors import IntegrityError, NotFoundError, UnavailableError
from tests.cache_node.queued import QueuedNode
from tests.contracts.store_objects import data_of, key_of

ONE = key_of(1)


@pytest.fixture
async def node(tmp_path: Path) -> QueuedNode:
    running = QueuedNode(tmp_path)
    running.start()
    return running


def only_file(node: QueuedNode) -> Path:
    (path,) = (node.place / "entries").iterdir()
    return path


@pytest.mark.parametrize("place", [0, 4, 20, 45, 60, HEAD.size + 5, -1])
async def test_a_damaged_entry_is_never_written_to_the_store(node: QueuedNode, place: int) -> None:
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 1000))
    await node.kill()
    data = bytearray(only_file(node).read_bytes())
    data[place] ^= 4
    only_file(node).write_bytes(data)
    node.cold.down = False
    node.start()
    await node.worked_off()
    assert await node.cold.has() == {}
    assert node.count("queue_damaged") == 1
    with pytest.raises(NotFoundError):
        await node.blobs.read(ONE)
    await node.blobs.close()


@pytest.mark.parametrize("size", [0, 10, HEAD.size, HEAD.size + 999, HEAD.size + 1001])
async def test_an_entry_of_another_size_is_dropped(node: QueuedNode, size: int) -> None:
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 1000))
    await node.kill()
    only_file(node).write_bytes((only_file(node).read_bytes() + b"x")[:size])
    node.cold.down = False
    node.start()
    assert (await node.blobs.sizes(), node.count("queue_damaged")) == ({}, 1)
    assert list((node.place / "entries").iterdir()) == []
    await node.blobs.close()


async def test_a_queue_of_a_later_format_is_refused_and_left_alone(
    node: QueuedNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.cold.down = True
    monkeypatch.setattr("kvquilt_cache_node.store.queue_files.VERSION", 2)
    await node.blobs.write(ONE, data_of(1, 1000))
    await node.kill()
    monkeypatch.undo()
    before = only_file(node).read_bytes()
    with pytest.raises(IntegrityError, match="format 2") as caught:
        node.start()
    assert caught.value.reason == "unknown_version"
    assert only_file(node).read_bytes() == before


async def test_a_file_that_somebody_deleted_is_a_loss_that_is_counted_not_a_hang(tmp_path: Path) -> None:
    node = QueuedNode(tmp_path)
    node.start(started=False)
    await node.blobs.write(ONE, data_of(1, 10))
    only_file(node).unlink()
    node.blobs.start()
    await node.worked_off()
    assert (node.count("queue_damaged"), await node.cold.has()) == (1, {})
    await node.blobs.close()


async def test_one_process_holds_a_queue_and_files_of_others_are_left_alone(tmp_path: Path) -> None:
    first = QueueFiles(tmp_path, fsync=True)
    with pytest.raises(UnavailableError) as caught:
        QueueFiles(tmp_path, fsync=True)
    assert caught.value.reason == "store_locked"
    first.close()
    QueueFiles(tmp_path, fsync=True).close()


async def test_a_replaced_entry_that_a_kill_left_behind_is_not_brought_back(node: QueuedNode) -> None:
    node.cold.down = True
    await node.blobs.write(ONE, data_of(1, 10))
    old = only_file(node)
    content = old.read_bytes()
    await node.blobs.delete(ONE)
    old.write_bytes(content)
    await node.kill()
    node.start(started=False)
    with pytest.raises(NotFoundError):
        await node.blobs.read(ONE)
    assert only_file(node).suffix == ".del"
    await node.blobs.close()
