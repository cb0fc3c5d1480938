"""The retriever for LangChain returns what the wrapped one returns, and has it prefetched."""

import pytest
from langchain_core.documents import Document as Retrieved
from langchain_core.retrievers import BaseRetriever

from kvquilt import Client, Document
from kvquilt.integrations.langchain import KvquiltPrefetchingRetriever, identified
from kvquilt.prefetching import PrefetchCounts, Prefetcher
from kvquilt_codec.errors import BadRequestError
from tests.stack import serve

FOUND = [
    Retrieved(id="tea", page_content="Tea is dried in the sun."),
    Retrieved(page_content="  Maps are drawn by hand.  "),
    Retrieved(id="empty", page_content="  "),
]


class Fixed(BaseRetriever):
    found: list[Retrieved] = FOUND

    def _get_relevant_documents(self, query, *, run_manager):
        return self.found


@pytest.fixture
def prefetcher(smollm2, tmp_path):
    with (
        serve(smollm2, tmp_path, warm_up_passages=0) as router,
        Client(router) as client,
        Prefetcher(client) as prefetcher,
    ):
        yield prefetcher, client


async def test_what_it_returns_is_prefetched_as_the_prompt_will_have_it(prefetcher):
    prefetcher, client = prefetcher
    retriever = KvquiltPrefetchingRetriever(retriever=Fixed(), prefetcher=prefetcher)
    assert retriever.invoke("Who?") == FOUND
    assert prefetcher.wait(60)
    assert prefetcher.counts == PrefetchCounts(stored=2)
    segments = retriever.segments(FOUND, "Who?")
    assert segments == ["Tea is dried in the sun.\n\n", "Maps are drawn by hand.\n\n", "Who?"]
    assert {chunk.miss_reason for chunk in client.plan(segments).chunks} == {""}
    assert client.forget("tea").objects_deleted

    assert await retriever.ainvoke("Who?") == FOUND
    assert prefetcher.wait(60)
    assert prefetcher.counts == PrefetchCounts(stored=2, fresh=2)


def test_documents_without_an_id_are_known_by_their_text():
    first, second = identified(FOUND[1]), identified(Retrieved(page_content="Maps are drawn by hand."))
    assert first == second
    assert first.document_id.startswith("langchain/")
    assert identified(Retrieved(page_content="Other.")).document_id != first.document_id


def test_a_router_that_is_not_there_costs_a_retrieval_nothing():
    with Client("127.0.0.1:1") as client, Prefetcher(client, deadline=5) as prefetcher:
        retriever = KvquiltPrefetchingRetriever(retriever=Fixed(), prefetcher=prefetcher)
        assert retriever.invoke("Who?") == FOUND
        assert prefetcher.wait(60)
        assert prefetcher.counts == PrefetchCounts(failed=2)


def test_segments_are_text(prefetcher):
    retriever = KvquiltPrefetchingRetriever(
        retriever=Fixed(), prefetcher=prefetcher[0], to_document=lambda found: Document("tokens", [1, 2])
    )
    with pytest.raises(BadRequestError, match="token ids"):
        retriever.segments(FOUND, "Who?")
