"""Waiting for what is to be saved ends when nothing waits, or at its deadline."""

import asyncio

from kvquilt.worker import KvToSave
from tests.stack import serve
from tests.worker.conftest import Worker, asked, tokens


def test_settling_is_over_at_its_deadline(tiny_model, tmp_path, monkeypatch):
    with serve(tiny_model, tmp_path, chunk_tokens=64) as address:
        worker = Worker(tiny_model, address)
        assert worker.cache.settle(0.01), "nothing waits"

        async def hang(*_):
            await asyncio.Event().wait()

        monkeypatch.setattr("kvquilt_router.taking.Taker.take", hang)
        text = tokens(100)
        assert worker.cache.save(KvToSave(asked(text), worker.computed(text), exact_tokens=len(text)))
        assert not worker.cache.settle(0.05)
        worker.cache.close()
        assert worker.cache.settle(0.05), "after the close nothing waits"
