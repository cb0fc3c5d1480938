"""LangChain: a retriever that has what it returns prefetched, while the chain goes on.

Needs `pip install kvquilt[langchain]`.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document as RetrievedDocument
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, Field

from kvquilt.prefetching import Prefetcher
from kvquilt.types import Document
from kvquilt_codec.errors import BadRequestError


def passage(document: RetrievedDocument) -> str:
    """A document's text as a segment of a prompt: without white space around it, and with an empty line after it."""
    return document.page_content.strip() + "\n\n"


def identified(document: RetrievedDocument) -> Document:
    """A document under the id by which it can be forgotten: its own, else the SHA-256 of its text."""
    text = passage(document)
    return Document(document.id or f"langchain/{sha256(text.encode(errors='replace')).hexdigest()[:32]}", text)


class KvquiltPrefetchingRetriever(BaseRetriever):
    """Returns what another retriever returns, and offers it to a `Prefetcher`.

    It waits for nothing and raises no fault of the cache. Put the very text into the prompt that is prefetched:
    `segments` gives it.

    Args:
        retriever: the one to ask.
        prefetcher: the caller's, who closes it.
        to_document: what is prefetched of a retrieved document; by default `identified`.

    Example:
        ```python
        with Client() as client, Prefetcher(client) as prefetcher:
            retriever = KvquiltPrefetchingRetriever(retriever=vector_store.as_retriever(), prefetcher=prefetcher)
            chain = retriever | rerank | answer
        ```
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    retriever: BaseRetriever
    prefetcher: Prefetcher = Field(exclude=True, repr=False)
    to_document: Callable[[RetrievedDocument], Document] = Field(default=identified, exclude=True, repr=False)

    def segments(self, documents: Sequence[RetrievedDocument], question: str) -> list[str]:
        """A prompt's segments: the documents as they were prefetched, and the question. Empty documents are left out.

        Raises:
            BadRequestError: `to_document` gives other contents than text.
        """
        texts = [document.content for document in self._prefetched(documents)]
        if not all(isinstance(text, str) for text in texts):
            raise BadRequestError(
                "expected text from to_document; got token ids: take segments from its documents instead"
            )
        return [*map(str, texts), question]

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[RetrievedDocument]:
        return self._offered(self.retriever.invoke(query, config={"callbacks": run_manager.get_child()}))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun
    ) -> list[RetrievedDocument]:
        return self._offered(await self.retriever.ainvoke(query, config={"callbacks": run_manager.get_child()}))

    def _offered(self, found: list[RetrievedDocument]) -> list[RetrievedDocument]:
        self.prefetcher.offer(self._prefetched(found))
        return found

    def _prefetched(self, found: Sequence[RetrievedDocument]) -> list[Document]:
        return [self.to_document(document) for document in found if document.page_content.strip()]
