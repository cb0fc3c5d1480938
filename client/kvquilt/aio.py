"""The asynchronous client of a router."""

from collections.abc import AsyncIterator, Iterator, Sequence
from types import TracebackType

from kvquilt import wire
from kvquilt.changes import Changes
from kvquilt.explanations import MissReport, miss_report
from kvquilt.layers import blend_call
from kvquilt.looks import Looks
from kvquilt.receiving import Receiver
from kvquilt.segments import split_segments
from kvquilt.types import (
    BlendedKV,
    Document,
    PlanReport,
    PrefetchProgress,
    Segment,
)
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.lifetime import check_ttl
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_proto.v1 import router_pb2_grpc
from kvquilt_rpc.channel import MAX_MESSAGE_BYTES, open_channel
from kvquilt_rpc.security import Credentials
from kvquilt_rpc.status import translated, well_formed

DEFAULT_TARGET = "127.0.0.1:7410"
_BATCH_BYTES = 4 << 20
_BATCH_DOCUMENTS = 256


class AsyncClient(Changes, Looks):
    """Calls a router. Use it as an async context manager, or call `close`.

    Every call takes a `deadline` in seconds. Every failure is an error of `kvquilt.errors`.

    Args:
        target: the router: `host:port`, `dns:///NAME:PORT` or `unix:PATH`.
        credentials: as whom to call, and TLS; by default as nobody, in clear text.

    Raises NotFoundError or BadRequestError for credentials that cannot be used.

    Example:
        ```python
        async with AsyncClient() as client:
            async for done in client.prefetch([Document("readme", text)]):
                print(done.document_id, done.stored)
            kv = await client.blend([text, "What is this about?"])
        ```
    """

    def __init__(self, target: str = DEFAULT_TARGET, credentials: Credentials | None = None) -> None:
        self.target = target
        self._channel = open_channel(target, credentials)
        self._stub = router_pb2_grpc.RouterServiceStub(self._channel)
        self._blend_call = blend_call(self._channel)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel; running calls fail."""
        await self._channel.close()

    async def prefetch(
        self,
        documents: Sequence[Document],
        *,
        shared_prefix: Segment | None = None,
        level: str | None = None,
        corpus: str = "",
        warm_up: Sequence[Segment] = (),
        ttl: float | None = None,
        ttl_renewed: bool = False,
        model: str = "",
        deadline: float = 3600.0,
    ) -> AsyncIterator[PrefetchProgress]:
        """Compute and store the KV of documents; yields as each is done. Interrupted, what is done stays stored.

        Args:
            documents: ids must differ.
            shared_prefix: what the application's prompts begin with; by default the head of the model's chat template.
            level: codec level by name, or a bound like "kl<1e-3"; `None` takes the router's default.
            corpus: what the documents belong to. Chunks are computed after passages that are fixed per corpus.
            warm_up: these passages; by default some of the corpus's first documents.
            ttl: seconds that what this stores stays at most; `None` takes the router's default. What is stored already
                keeps its own.
            ttl_renewed: each use begins the TTL anew.
            model: name or fingerprint; may be empty where the router serves one model.
            deadline: seconds for each batch of documents.

        Raises:
            BadRequestError: duplicate ids, an empty document, one that is too large for a message, or a TTL that
                cannot be.
        """
        if ttl is not None:
            check_ttl(ttl)
        ids = [document.document_id for document in documents]
        if len(set(ids)) != len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise BadRequestError(f"expected documents with ids of their own; {twice!r} occurs twice")
        prefix = None if shared_prefix is None else wire.content(shared_prefix)
        number, kl_below = wire.level_fields(level)
        done = 0
        for batch in _batches(documents):
            request = pb.PrefetchRequest(
                model=model,
                shared_prefix=prefix,
                documents=batch,
                level=number,
                kl_below=kl_below,
                corpus=corpus,
                warm_up=[wire.content(passage) for passage in warm_up],
                ttl_seconds=ttl,
                ttl_renewed=ttl_renewed,
            )
            async with translated():
                async for message in self._stub.Prefetch(request, timeout=deadline):
                    done += 1
                    yield wire.progress(well_formed(message), done, len(ids))

    async def blend(
        self,
        segments: Sequence[Segment],
        *,
        shared_prefix: Segment | None = None,
        policy: str | None = None,
        recompute_ratio: float | None = None,
        level: str | None = None,
        max_kl: float | None = None,
        seed: int = 0,
        transient: bool = False,
        model: str = "",
        deadline: float = 60.0,
    ) -> BlendedKV:
        """KV of a prompt, assembled from stored chunks.

        Args:
            segments: documents in prompt order, the question last.
            shared_prefix: as in `prefetch`. By default the model's chat template frames the prompt.
            policy: recompute policy by name; `None` takes the router's default, as for the next two.
            recompute_ratio: share of reused tokens to recompute, 0 to 1.
            level: codec level, as in `prefetch`.
            max_kl: most divergence from a full prefill that the gate may predict, in nats; beyond it, chunks whose
                context changed are not used.
            seed: of random policies.
            transient: what it misses or sees is not stored, `why` has no record of it, and no audit compares it.
            model: name or fingerprint.
            deadline: seconds.

        Raises:
            BadRequestError: an empty segment, an unknown policy, more tokens than the model's context.
            IntegrityError: the stream is not what its header declared.
        """
        options = wire.options(policy, recompute_ratio, level, max_kl, seed, transient)
        return await self._blend(_prompt(segments, shared_prefix), options, model, deadline)

    async def blend_plain(
        self,
        prompt: Segment,
        *,
        policy: str | None = None,
        recompute_ratio: float | None = None,
        level: str | None = None,
        max_kl: float | None = None,
        seed: int = 0,
        transient: bool = False,
        model: str = "",
        deadline: float = 60.0,
    ) -> BlendedKV:
        """KV of a prompt without boundaries, as it goes to the model: known chunks are found in it at any offset.

        Other arguments and errors as in `blend`.
        """
        options = wire.options(policy, recompute_ratio, level, max_kl, seed, transient)
        return await self._blend(pb.Prompt(plain=wire.content(prompt)), options, model, deadline)

    async def _blend(self, prompt: pb.Prompt, options: pb.BlendOptions, model: str, deadline: float) -> BlendedKV:
        request = pb.BlendRequest(model=model, prompt=prompt, options=options)
        receiver: Receiver | None = None
        async with translated():
            async for answer in self._blend_call(request, timeout=deadline):
                response = well_formed(answer)
                if receiver is None:
                    receiver = Receiver(response)
                else:
                    receiver.take(response)
        if receiver is None:
            raise IntegrityError("expected a header; the router's stream was empty")
        return receiver.finish()

    async def plan(
        self,
        segments: Sequence[Segment],
        *,
        shared_prefix: Segment | None = None,
        policy: str | None = None,
        recompute_ratio: float | None = None,
        level: str | None = None,
        max_kl: float | None = None,
        model: str = "",
        deadline: float = 30.0,
    ) -> PlanReport:
        """What `blend` would find; arguments and errors as there."""
        request = pb.PlanBlendRequest(
            model=model,
            prompt=_prompt(segments, shared_prefix),
            options=wire.options(policy, recompute_ratio, level, max_kl),
        )
        async with translated():
            return wire.plan(well_formed(await self._stub.PlanBlend(request, timeout=deadline)))

    async def why(
        self,
        request_id: str = "",
        *,
        segments: Sequence[Segment] = (),
        plain: Segment | None = None,
        shared_prefix: Segment | None = None,
        policy: str | None = None,
        recompute_ratio: float | None = None,
        level: str | None = None,
        max_kl: float | None = None,
        model: str = "",
        deadline: float = 30.0,
    ) -> MissReport:
        """Why chunks of a request were missed, or would be of a prompt now.

        Args:
            request_id: from the report of a blend in this namespace; or instead, one of the next two.
            segments: of a prompt, as in `blend`; what follows is as there too.
            plain: a prompt without boundaries, as in `blend_plain`.
            shared_prefix, policy, recompute_ratio, level, max_kl, model: with a prompt.
            deadline: seconds.

        Raises:
            NotFoundError: the router has no record of the request in this namespace (reason `unknown_request`).
            BadRequestError: not one of the three; see also `blend`.
        """
        if sum((bool(request_id), bool(segments), plain is not None)) != 1:
            raise BadRequestError("expected the id of a request, or segments, or a plain prompt: one of the three")
        request = pb.ExplainMissRequest(model=model, request_id=request_id)
        if not request_id:
            whole = _prompt(segments, shared_prefix) if plain is None else pb.Prompt(plain=wire.content(plain))
            request.prompt.CopyFrom(whole)
            request.options.CopyFrom(wire.options(policy, recompute_ratio, level, max_kl))
        async with translated():
            return miss_report(well_formed(await self._stub.ExplainMiss(request, timeout=deadline)))


def _prompt(segments: Sequence[Segment], shared_prefix: Segment | None) -> pb.Prompt:
    documents, question = split_segments(segments)
    return pb.Prompt(
        shared_prefix=None if shared_prefix is None else wire.content(shared_prefix),
        documents=[wire.content(document) for document in documents],
        question=wire.content(question),
    )


def _batches(documents: Sequence[Document]) -> Iterator[list[pb.Document]]:
    """Documents in batches that fit a message."""
    batch: list[pb.Document] = []
    size = 0
    for document in documents:
        message = pb.Document(document_id=document.document_id, content=wire.content(document.content))
        length = message.ByteSize()
        if length > MAX_MESSAGE_BYTES - 4096:
            raise BadRequestError(
                f"expected documents below {MAX_MESSAGE_BYTES} bytes; {document.document_id!r} has {length}: split it"
            )
        if batch and (size + length > _BATCH_BYTES or len(batch) >= _BATCH_DOCUMENTS):
            yield batch
            batch, size = [], 0
        batch.append(message)
        size += length
    if batch:
        yield batch
