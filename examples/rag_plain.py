"""RAG in plain Python: retrieve, prefetch while reranking, ask.

With a Transformers model in this process:

    kvquilt serve &
    python examples/rag_plain.py "Which metal is a pendulum rod made of?"

With `vllm serve` and the OpenAI client (docs/vllm.md says how to start it with kvquilt):

    python examples/rag_plain.py "Which metal is a pendulum rod made of?" --vllm http://127.0.0.1:8000/v1
"""

import argparse
import asyncio
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bm25 import BM25, words
from kvquilt import AsyncClient, Document, KvquiltError, read_documents
from kvquilt.demo.corpus import passages

CANDIDATES, USED = 6, 3


async def retrieve(question: str, documents: Sequence[Document], router: str) -> list[Document]:
    """The best documents, their KV prefetched while they were chosen."""
    texts = [str(document.content) for document in documents]
    candidates = [documents[number] for number in BM25(texts).search(question, CANDIDATES)]
    async with AsyncClient(router) as client:
        prefetching = asyncio.create_task(prefetch(client, candidates))
        best = await asyncio.to_thread(rerank, question, candidates)
        # Where all of it is stored already, this takes milliseconds. Else it takes as long as computing the documents.
        await prefetching
    return best[:USED]


async def prefetch(client: AsyncClient, documents: Sequence[Document]) -> None:
    """Have the KV of documents looked up, and computed and stored where it is missing."""
    try:
        async for done in client.prefetch(documents):
            print(f"prefetched {Path(done.document_id).name}: {done.stored} chunks stored, {done.present} present")
    except KvquiltError as error:
        print(f"nothing prefetched, the model computes it all: {error}")


def rerank(question: str, candidates: Sequence[Document]) -> list[Document]:
    """Stands for a reranking model: pairs of words that follow each other in the question come first."""
    asked = words(question)
    pairs = set(pairwise(asked))

    def shared(document: Document) -> int:
        found = words(str(document.content))
        return len(pairs & set(pairwise(found)))

    return sorted(candidates, key=shared, reverse=True)


def ask_transformers(question: str, documents: Sequence[Document], router: str, model: str, tokens: int) -> None:
    """Answer with a Transformers model whose cache a router fills."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from kvquilt.integrations.transformers import Extent, KvquiltCache
    from kvquilt_router.engine.model import resolve

    folder = resolve(model)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    llm = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    with KvquiltCache(llm, tokenizer, router, extent=Extent.PROMPT) as cache:
        filled = cache.fill([*(document.content for document in documents), question])
        output = llm.generate(**filled, max_new_tokens=tokens, do_sample=False)
    print(tokenizer.decode(output[0, filled.input_ids.shape[1] :], skip_special_tokens=True).strip())
    if filled.report is None:
        print(f"computed without kvquilt: {filled.fallback_reason}")
        return
    report = filled.report
    print(
        f"{report.tokens_exact} tokens exact, {report.tokens_reused} reused, {report.tokens_recomputed} recomputed, "
        f"{report.tokens_computed} computed"
    )


def ask_openai(question: str, documents: Sequence[Document], url: str, tokens: int) -> None:
    """Answer with an OpenAI-compatible server, `vllm serve` with kvquilt's connector: it finds what was prefetched."""
    from openai import OpenAI

    with OpenAI(base_url=url, api_key="none") as client:
        answer = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": "".join(str(document.content) for document in documents) + question}],
            max_tokens=tokens,
            temperature=0,
        )
    print((answer.choices[0].message.content or "").strip())
    cached = answer.usage.prompt_tokens_details.cached_tokens if answer.usage.prompt_tokens_details else 0
    blended = (answer.model_extra.get("kv_transfer_params") or {}).get("kvquilt", {}).get("tokens_blended", 0)
    print(f"{answer.usage.prompt_tokens} tokens in the prompt: {cached} cached, {blended} blended")


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer the question that the command line asks."""
    parser = argparse.ArgumentParser(description="RAG in plain Python")
    parser.add_argument("question")
    parser.add_argument("--documents", type=Path, help="folder of text files; default: the demo's ten passages")
    parser.add_argument("--router", default="127.0.0.1:7410", help="address of the router")
    parser.add_argument("--model", default="smollm2", help="folder of the model that the router serves")
    parser.add_argument("--tokens", type=int, default=32, help="most tokens of the answer")
    parser.add_argument("--vllm", help="ask this OpenAI-compatible server, instead of a model in this process")
    chosen = parser.parse_args(arguments)
    documents = list(passages().values()) if chosen.documents is None else read_documents([chosen.documents])
    best = asyncio.run(retrieve(chosen.question, documents, chosen.router))
    print("asking over", ", ".join(Path(document.document_id).name for document in best))
    question = f"Question: {chosen.question}"
    if chosen.vllm:
        ask_openai(question, best, chosen.vllm, chosen.tokens)
    else:
        ask_transformers(question, best, chosen.router, chosen.model, chosen.tokens)


if __name__ == "__main__":
    main()
