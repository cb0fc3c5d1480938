"""A prefetch as a caller asks for it: its own documents in its namespace, public ones in the public one."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from kvquilt_codec.errors import BadRequestError, PermissionDeniedError
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.lifetime import Ttl
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router import wire
from kvquilt_router.engine import LoadedModel
from kvquilt_router.misses import node_calls
from kvquilt_router.precompute import PrefetchResult
from kvquilt_router.tenants import Acting
from kvquilt_rpc.callers import acting_in


def require_write(allowed: bool, what: str) -> None:
    """Refuse who may only read.

    Raises:
        PermissionDeniedError: the caller may not.
    """
    if not allowed:
        raise PermissionDeniedError(
            f"expected a caller that may write in the namespace public, to {what} there; this one may read: ask for a "
            "token with public_write",
            reason="public_write_denied",
        )


async def prefetched(
    request: pb.PrefetchRequest, model: LoadedModel, acting: Acting, point: OperatingPoint
) -> AsyncGenerator[PrefetchResult, None]:
    """Compute and store the documents of a request; yields as each is done, under the id that the request gave it.

    Raises:
        BadRequestError: what is no prefix, document, passage or TTL; a public document after a prefix that is not.
        PermissionDeniedError: the caller may not store where it would be stored.
    """
    given = request.shared_prefix if request.HasField("shared_prefix") else None
    prefix = wire.shared_prefix(given, model)
    public_prefix = given is not None and given.public
    known_prefix = wire.known_to_all(prefix, given, model)
    texts = wire.documents(request, model)
    ttl = Ttl(request.ttl_seconds, request.ttl_renewed) if request.HasField("ttl_seconds") else None
    passages = list(zip((passage.public for passage in request.warm_up), wire.warm_up(request, model), strict=True))
    documents = list(zip(request.documents, texts, strict=True))
    groups = [
        (public, [(d.document_id, t) for d, t in documents if d.content.public == public]) for public in (False, True)
    ]
    groups = [(public, chosen) for public, chosen in groups if chosen]
    for public, _ in groups:
        require_write(acting.may_write_public if public else acting.may_write, "prefetch")
        if public and not known_prefix:
            raise BadRequestError(
                "expected public documents after a public shared prefix, or none: what precedes a text shows in its KV"
            )
    acting.tenant.prefixes.remember(prefix)
    for public, chosen in groups:
        tenant = acting.public if public else acting.tenant
        own = [tokens for known, tokens in passages if known or not public]
        warm_up = tenant.warm_ups.choose(request.corpus, [tokens for _, tokens in chosen], own)
        stored = tenant.precomputer.documents(
            chosen,
            prefix,
            point,
            warm_up,
            public_prefix=public_prefix,
            store_prefix=acting.may_write_public or not public_prefix,
            ttl=ttl,
        )
        async with aclosing(stored) as results:
            while True:
                with node_calls(), acting_in(tenant.planner.namespace.name):
                    result = await anext(results, None)
                if result is None:
                    break
                yield result


def progress(result: PrefetchResult, done: int, total: int, level: str) -> pb.PrefetchResponse:
    """Describe what became of a document."""
    return pb.PrefetchResponse(
        document_id=result.document_id,
        chunks_stored=result.stored,
        chunks_present=result.present,
        chunks_failed=result.failed,
        failure_reason=result.failure_reason,
        token_count=result.tokens,
        stored_bytes=result.stored_bytes,
        compute_seconds=result.compute_seconds,
        documents_done=done,
        documents_total=total,
        level=level,
    )
