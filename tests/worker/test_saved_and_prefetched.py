"""What workers saved of a document does not keep a prefetch of it from computing what it is for."""

import pytest

from kvquilt import Client, Document
from kvquilt.worker import KvToSave
from tests.stack import serve
from tests.worker.conftest import Worker, asked, tokens

TEXT = tokens(10, 50, 50, 20)
PREFIX, FIRST, SECOND = TEXT[:10], TEXT[10:60], TEXT[60:110]
SEGMENTS = {"prefix_tokens": 10, "document_tokens": (50, 50)}
PASSAGE = tokens(60, seed=8).tolist()


@pytest.mark.parametrize("passages", [0, 2])
def test_a_prefetch_computes_what_it_would_have_computed_without_a_save(tiny_model, tmp_path, passages):
    def prefetched(client, text):
        (done,) = client.prefetch(
            [Document(str(text[0]), text.tolist())],
            shared_prefix=PREFIX.tolist(),
            warm_up=[PASSAGE] if passages else (),
            level="lossless",
        )
        return done.stored, done.present

    with serve(tiny_model, tmp_path, chunk_tokens=64, warm_up_passages=passages, background=False) as address:
        worker = Worker(tiny_model, address)
        worker.cache.save(KvToSave(asked(TEXT, **SEGMENTS), worker.computed(TEXT), exact_tokens=len(TEXT)))
        assert worker.cache.settle(30)
        with Client(address) as client:
            assert prefetched(client, SECOND) == (1, 1), "the shared prefix is there, the document only in one context"
            # Without warm-up passages that is what was saved of the first one.
            assert prefetched(client, FIRST) == ((1, 1) if passages else (0, 2))
            assert prefetched(client, SECOND) == (0, 2)
            swapped = [SECOND.tolist(), FIRST.tolist(), [5, 6]]
            plan = client.plan(swapped, shared_prefix=PREFIX.tolist(), level="lossless")
        assert [chunk.context for chunk in plan.chunks] == [
            "exact",
            *(["warm", "warm"] if passages else ["exact", "base"]),
        ]
        worker.cache.close()
