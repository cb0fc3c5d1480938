"""A state machine that calls blobs at random and compares them with a dictionary."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from kvquilt_cache_node.types import Blobs
from kvquilt_codec.container.head import MAGIC
from kvquilt_codec.errors import IntegrityError, NotFoundError

OpenBlobs = Callable[[Path], Awaitable[Blobs]]

keys = st.integers(0, 4).map(lambda number: bytes([number]) * 32)
offsets = st.integers(0, 600)
contents = st.one_of(st.binary(max_size=500), st.just(bytes(1_200_000))).filter(lambda data: not data.startswith(MAGIC))
"""No broken containers, which cannot be sealed: nobody could tell whose they are."""


def make_machine(open_blobs: OpenBlobs, folder: Path) -> Callable[[], RuleBasedStateMachine]:
    """A machine class over blobs that `open_blobs` opens in folders of their own below `folder`."""

    class BlobsMachine(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.runner = asyncio.Runner()
            self.folder = folder / uuid.uuid4().hex
            self.folder.mkdir()
            self.blobs = self.runner.run(_opened(open_blobs, self.folder))
            self.model: dict[bytes, bytes] = {}

        def teardown(self) -> None:
            self.sizes_are_the_models()
            self.runner.run(self.blobs.close())
            self.runner.close()

        @rule(key=keys, data=contents)
        def write(self, key: bytes, data: bytes) -> None:
            self.runner.run(self.blobs.write(key, data))
            self.model[key] = data

        @rule(key=keys)
        def delete(self, key: bytes) -> None:
            self.runner.run(self.blobs.delete(key))
            self.model.pop(key, None)

        @rule(key=keys)
        def read(self, key: bytes) -> None:
            if key in self.model:
                assert self.runner.run(self.blobs.read(key)) == [self.model[key]]
            else:
                with pytest.raises(NotFoundError):
                    self.runner.run(self.blobs.read(key))

        @rule(key=keys, ranges=st.lists(st.tuples(offsets, offsets).map(sorted).map(tuple), max_size=5))
        def read_ranges(self, key: bytes, ranges: list[tuple[int, int]]) -> None:
            if key not in self.model:
                with pytest.raises(NotFoundError):
                    self.runner.run(self.blobs.read(key, ranges))
            elif any(end > len(self.model[key]) for _, end in ranges):
                with pytest.raises(IntegrityError):
                    self.runner.run(self.blobs.read(key, ranges))
            else:
                expected = [self.model[key][begin:end] for begin, end in ranges]
                assert self.runner.run(self.blobs.read(key, ranges)) == expected

        @rule()
        def open_again(self) -> None:
            durable = self.blobs.durable
            self.runner.run(self.blobs.close())
            self.blobs = self.runner.run(_opened(open_blobs, self.folder))
            if not durable:
                self.model.clear()

        @rule()
        def sizes_are_the_models(self) -> None:
            assert self.runner.run(self.blobs.sizes()) == {key: len(data) for key, data in self.model.items()}

    BlobsMachine.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
    return BlobsMachine


async def _opened(open_blobs: OpenBlobs, folder: Path) -> Blobs:
    return await open_blobs(folder)
