"""What every `Blobs` promises. To test one of yours, subclass and say how it is opened:

    class TestMyBlobs(BlobsContract):
        async def open_blobs(self, folder):
            return MyBlobs(folder)

Run it with pytest-asyncio in auto mode. `folder` is the test's own and names the blobs: opened a second time, after the
first were closed, durable blobs hold what was written.
"""

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from kvquilt_cache_node.types import Blobs, ByteRange
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError, UnavailableError
from tests.contracts.blobs_machine import make_machine
from tests.contracts.store_objects import key_of

MIB = 1 << 20
SIZES = [0, 1, 1000, MIB - 1, MIB, MIB + 1, 3 * MIB + 500_000]


def data_of(number: int, size: int) -> bytes:
    """Bytes that differ from those of other numbers, and from themselves a mebibyte further on."""
    period = bytes((number * 31 + place * 7) % 251 for place in range(251))
    return (period * (size // 251 + 1))[:size]


class BlobsContract(ABC):
    """See the module."""

    @abstractmethod
    async def open_blobs(self, folder: Path) -> Blobs:
        """Open the blobs of a folder."""

    @pytest.fixture
    async def blobs(self, tmp_path: Path) -> AsyncIterator[Blobs]:
        opened = await self.open_blobs(tmp_path)
        yield opened
        await opened.close()

    # Reading and writing

    async def test_new_blobs_are_empty(self, blobs: Blobs) -> None:
        assert await blobs.sizes() == {}
        assert blobs.name
        assert isinstance(blobs.durable, bool)

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_is_written_is_read(self, blobs: Blobs, size: int) -> None:
        await blobs.write(key_of(1), data_of(1, size))
        assert await blobs.read(key_of(1)) == [data_of(1, size)]
        assert await blobs.sizes() == {key_of(1): size}

    @pytest.mark.parametrize("size", SIZES)
    async def test_what_is_written_comes_in_pieces_however_often(self, blobs: Blobs, size: int) -> None:
        await blobs.write(key_of(1), data_of(1, size))
        for _ in range(3):
            assert b"".join([piece async for piece in blobs.pieces(key_of(1))]) == data_of(1, size)
        await blobs.delete(key_of(1))
        with pytest.raises(NotFoundError):
            await anext(blobs.pieces(key_of(1)))
        with pytest.raises(BadRequestError):
            await anext(blobs.pieces(b"short"))

    @pytest.mark.parametrize("size", [0, 100, MIB, 3 * MIB + 500_000])
    async def test_ranges_are_read_in_the_order_asked(self, blobs: Blobs, size: int) -> None:
        whole = data_of(1, size)
        await blobs.write(key_of(1), whole)
        edges = sorted({0, size // 3, size // 2, size, *(min(size, MIB + step) for step in (-1, 0, 1))})
        ranges = [(begin, end) for begin in edges for end in edges if begin <= end]
        ranges = ranges[::2] + ranges[1::2]
        assert await blobs.read(key_of(1), ranges) == [whole[begin:end] for begin, end in ranges]
        assert await blobs.read(key_of(1), []) == []

    @pytest.mark.parametrize("size", [0, 100, 2 * MIB])
    @pytest.mark.parametrize("beyond", [(0, 1), (-5, 0), (60, 50), (1, 1), (2**40, 2**40 + 1), (2**63, 2**64)])
    async def test_a_range_outside_is_an_integrity_error(self, blobs: Blobs, size: int, beyond: ByteRange) -> None:
        wrong = beyond if beyond in [(-5, 0), (60, 50)] else (size + beyond[0], size + beyond[1])
        await blobs.write(key_of(1), data_of(1, size))
        with pytest.raises(IntegrityError, match=f"within {size} bytes"):
            await blobs.read(key_of(1), [(0, min(size, 10)), wrong])
        with pytest.raises(IntegrityError, match=f"within {size} bytes"):
            await blobs.read(key_of(1), [wrong])
        assert await blobs.read(key_of(1)) == [data_of(1, size)], "the blob stays"

    @pytest.mark.parametrize("ranges", [None, [(0, 1)], [], [(0, 0)]])
    async def test_what_was_never_written_is_not_found(self, blobs: Blobs, ranges: list[ByteRange] | None) -> None:
        with pytest.raises(NotFoundError):
            await blobs.read(key_of(1), ranges)

    @pytest.mark.parametrize("key", [b"", b"short", bytes(33)])
    async def test_keys_of_another_length_are_refused(self, blobs: Blobs, key: bytes) -> None:
        with pytest.raises(BadRequestError, match="32 bytes"):
            await blobs.write(key, b"data")
        with pytest.raises(BadRequestError, match="32 bytes"):
            await blobs.read(key)
        with pytest.raises(BadRequestError, match="32 bytes"):
            await blobs.delete(key)
        assert await blobs.sizes() == {}

    async def test_keys_are_any_bytes(self, blobs: Blobs) -> None:
        keys = [bytes([byte]) * 32 for byte in b"\x00\n\r *?[]{}\\/%\x7f\xff"]
        for number, key in enumerate(keys):
            await blobs.write(key, data_of(number, 10))
        assert await blobs.sizes() == dict.fromkeys(keys, 10)
        assert [await blobs.read(key) for key in keys] == [[data_of(number, 10)] for number in range(len(keys))]

    async def test_a_blob_keeps_its_bytes_though_the_caller_changes_its_buffer(self, blobs: Blobs) -> None:
        buffer = bytearray(data_of(1, MIB + 100))
        await blobs.write(key_of(1), buffer)
        buffer[:] = bytes(len(buffer))
        assert await blobs.read(key_of(1)) == [data_of(1, MIB + 100)]

    # Replacing and deleting

    async def test_a_blob_is_replaced_by_shorter_and_longer_ones(self, blobs: Blobs) -> None:
        for number, size in enumerate([2 * MIB + 5, 10, 0, MIB, 3 * MIB, 10]):
            await blobs.write(key_of(1), data_of(number, size))
            assert await blobs.read(key_of(1)) == [data_of(number, size)]
            assert await blobs.sizes() == {key_of(1): size}

    async def test_deleting_is_idempotent_and_concerns_one_key(self, blobs: Blobs) -> None:
        await blobs.delete(key_of(1))
        for number in (1, 2):
            await blobs.write(key_of(number), data_of(number, MIB + 1))
        for _ in range(2):
            await blobs.delete(key_of(1))
            with pytest.raises(NotFoundError):
                await blobs.read(key_of(1), [(0, 1)])
            assert await blobs.sizes() == {key_of(2): MIB + 1}
        assert await blobs.read(key_of(2)) == [data_of(2, MIB + 1)]
        await blobs.write(key_of(1), data_of(3, 5))
        assert await blobs.read(key_of(1)) == [data_of(3, 5)]

    async def test_a_reader_never_sees_a_part_or_a_mix_of_two_writes(self, blobs: Blobs) -> None:
        least = MIB + 4000
        sizes = {version: least + version * 300_000 for version in range(1, 6)}
        key, done = key_of(1), asyncio.Event()
        await blobs.write(key, bytes([1]) * sizes[1])
        seen: set[int] = set()

        async def write(turn: int) -> None:
            for step in range(6):
                version = (turn + step) % 5 + 1
                await blobs.write(key, bytes([version]) * sizes[version])

        async def read() -> int:
            reads = 0
            while not done.is_set() or not reads:
                (whole,) = await blobs.read(key)
                assert whole == bytes([whole[0]]) * sizes[whole[0]]
                pieces = await blobs.read(key, [(0, 10), (least // 2, least // 2 + 10), (least - 10, least)])
                assert {len(piece) for piece in pieces} == {10}
                assert len(set(b"".join(pieces))) == 1, "ranges of one read are of one write"
                seen.update(whole[:1], pieces[0][:1])
                reads += 1
                await asyncio.sleep(0)
            return reads

        readers = [asyncio.create_task(read()) for _ in range(3)]
        await asyncio.gather(write(0), write(2))
        done.set()
        await asyncio.gather(*readers)
        assert seen <= sizes.keys()
        (last,) = await blobs.read(key)
        assert await blobs.sizes() == {key: len(last)}

    async def test_a_reader_of_what_is_deleted_sees_all_or_nothing(self, blobs: Blobs) -> None:
        key, done, data = key_of(1), asyncio.Event(), data_of(1, 2 * MIB)

        async def read() -> None:
            while not done.is_set():
                with contextlib.suppress(NotFoundError):
                    assert await blobs.read(key) == [data]
                    assert await blobs.read(key, [(0, 9), (MIB, MIB + 9)]) == [data[:9], data[MIB : MIB + 9]]
                await asyncio.sleep(0)

        readers = [asyncio.create_task(read()) for _ in range(2)]
        for _ in range(8):
            await blobs.write(key, data)
            await asyncio.sleep(0)
            await blobs.delete(key)
        done.set()
        await asyncio.gather(*readers)
        assert await blobs.sizes() == {}

    # Callers that go away

    async def test_a_cancelled_write_leaves_the_old_or_the_new_bytes(self, blobs: Blobs) -> None:
        old, new = data_of(1, MIB + 7), data_of(2, 2 * MIB)
        for steps in (0, 1, 2, 4, 8, 16, 32, 64):
            await blobs.write(key_of(1), old)
            task = asyncio.create_task(blobs.write(key_of(1), new))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert (await blobs.read(key_of(1)))[0] in (old, new)

    async def test_the_answer_to_a_cancelled_read_is_nobody_elses(self, blobs: Blobs) -> None:
        for number in range(4):
            await blobs.write(key_of(number), data_of(number, MIB + 1))
        for steps in (0, 1, 2, 3, 5, 8, 13, 21):
            reads = [asyncio.create_task(blobs.read(key_of(number % 4))) for number in range(8)]
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in reads[:4]:
                task.cancel()
            await asyncio.gather(*reads, return_exceptions=True)
            for number in range(4):
                assert reads[4 + number].result() == [data_of(number, MIB + 1)]
                assert await blobs.read(key_of(number), [(0, 100)]) == [data_of(number, 100)]

    # Ending

    async def test_after_closing_every_call_is_refused(self, tmp_path: Path) -> None:
        blobs = await self.open_blobs(tmp_path)
        await blobs.write(key_of(1), b"data")
        await blobs.close()
        await blobs.close()
        for call in (blobs.write(key_of(1), b"x"), blobs.read(key_of(1)), blobs.delete(key_of(1)), blobs.sizes()):
            with pytest.raises(UnavailableError, match="closed"):
                await call

    async def test_durable_blobs_outlive_their_opener(self, tmp_path: Path) -> None:
        first = await self.open_blobs(tmp_path)
        durable = first.durable
        await first.write(key_of(1), data_of(1, MIB + 1))
        await first.close()
        second = await self.open_blobs(tmp_path)
        assert await second.sizes() == ({key_of(1): MIB + 1} if durable else {})
        if durable:
            assert await second.read(key_of(1)) == [data_of(1, MIB + 1)]
        await second.close()

    # Everything together

    def test_any_sequence_of_calls_agrees_with_a_dictionary(self, tmp_path: Path) -> None:
        run_state_machine_as_test(make_machine(self.open_blobs, tmp_path))
