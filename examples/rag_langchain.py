"""RAG with LangChain: a retriever that has what it finds prefetched, and a chain that asks with a filled cache.

kvquilt serve &
python examples/rag_langchain.py "Which metal is a pendulum rod made of?"
"""

import argparse
from collections.abc import Sequence

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda, RunnablePassthrough
from transformers import AutoModelForCausalLM, AutoTokenizer

from bm25 import BM25
from kvquilt.demo.corpus import passages
from kvquilt.integrations.langchain import KvquiltPrefetchingRetriever
from kvquilt.integrations.transformers import Extent, KvquiltCache
from kvquilt.prefetching import Prefetcher
from kvquilt_router.engine.model import resolve

CANDIDATES, USED = 6, 3


class BM25Retriever(BaseRetriever):
    """Stands for your own retriever: any LangChain retriever will do."""

    documents: list[Document]

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        ranking = BM25([document.page_content for document in self.documents])
        return [self.documents[number] for number in ranking.search(query, CANDIDATES)]


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer the question that the command line asks."""
    parser = argparse.ArgumentParser(description="RAG with LangChain")
    parser.add_argument("question")
    parser.add_argument("--router", default="127.0.0.1:7410", help="address of the router")
    parser.add_argument("--model", default="smollm2", help="folder of the model that the router serves")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of the answer")
    chosen = parser.parse_args(arguments)
    folder = resolve(chosen.model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    found = [Document(id=name, page_content=str(document.content)) for name, document in passages().items()]

    kvquilt = KvquiltCache(llm, tokenizer, chosen.router, extent=Extent.PROMPT)
    with kvquilt as cache, Prefetcher(cache.client) as prefetcher:
        retriever = KvquiltPrefetchingRetriever(retriever=BM25Retriever(documents=found), prefetcher=prefetcher)

        def rerank(documents: list[Document]) -> list[Document]:
            return documents[:USED]  # meanwhile the prefetcher works

        def answer(asked: dict[str, list[Document]], question: str) -> str:
            filled = cache.fill(retriever.segments(asked["documents"], f"Question: {question}"))
            output = llm.generate(**filled, max_new_tokens=chosen.tokens, do_sample=False)
            if (report := filled.report) is not None:
                print(f"{report.tokens_exact} tokens exact, {report.tokens_reused + report.tokens_recomputed} blended")
            return str(tokenizer.decode(output[0, filled.input_ids.shape[1] :], skip_special_tokens=True)).strip()

        chain = RunnablePassthrough.assign(
            documents=RunnableLambda(lambda asked: asked["question"]) | retriever | rerank
        ) | RunnableLambda(lambda asked: answer(asked, asked["question"]))
        print(chain.invoke({"question": chosen.question}))
        print(prefetcher.counts)


if __name__ == "__main__":
    main()
