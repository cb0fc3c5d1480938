"""A worker's requests to messages, and the router's answers back."""

import math

from kvquilt import wire
from kvquilt.worker.types import Extent, KvToSave, LoadPlan, ServedModel, WorkerRequest
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import TokenIds
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import convert

EXTENTS = {
    Extent.PROMPT: pb.EXTENT_PROMPT,
    Extent.EXACT: pb.EXTENT_EXACT,
    Extent.AUTO: pb.EXTENT_AUTO,
    Extent.NOTHING: pb.EXTENT_NOTHING,
}
_OFFERED = {number: extent for extent, number in EXTENTS.items() if extent is not Extent.AUTO}


def prompt(request: WorkerRequest) -> pb.Prompt:
    """The prompt of a request, as segments if their lengths are known."""
    tokens = request.token_ids
    if request.prefix_tokens is None:
        return pb.Prompt(plain=_content(tokens))
    message = pb.Prompt(shared_prefix=_content(tokens[: request.prefix_tokens], public=0 in request.public))
    begin = request.prefix_tokens
    for segment, length in enumerate(request.document_tokens, start=1):
        message.documents.append(_content(tokens[begin : begin + length], public=segment in request.public))
        begin += length
    message.question.CopyFrom(_content(tokens[begin:]))
    return message


def _content(tokens: TokenIds, *, public: bool = False) -> pb.Content:
    return pb.Content(tokens=pb.TokenIds(ids=tokens.tolist()), public=public)


def options(request: WorkerRequest) -> pb.BlendOptions:
    """How to blend."""
    return wire.options(request.policy, request.recompute_ratio, request.level, request.max_kl, 0, request.transient)


def load(request: WorkerRequest, extent: Extent, seconds_per_token: float | None) -> pb.LoadOptions:
    """What is wanted."""
    return pb.LoadOptions(
        extent=EXTENTS[extent],
        computed_tokens=request.computed_tokens,
        worker_seconds_per_token=seconds_per_token,
        least_tokens=request.least_tokens,
        leaves_tail=True,
        search=request.extent is Extent.AUTO,
    )


def extent(number: int) -> Extent:
    """What the router offers, or sends.

    Raises:
        IntegrityError: nothing that it may.
    """
    found = _OFFERED.get(pb.Extent.ValueType(number))
    if found is None:
        raise IntegrityError(f"expected an extent in {[e.value for e in _OFFERED.values()]}; got number {number}")
    return found


def plan(message: pb.PlanBlendResponse, request: WorkerRequest, seconds: float) -> LoadPlan:
    """What the router offers.

    Raises:
        IntegrityError: what cannot be offered for this request.
    """
    tokens, first = len(request.token_ids), request.computed_tokens
    offered = extent(message.extent)
    expected = message.kv_tokens == first if offered is Extent.NOTHING else first < message.kv_tokens < tokens
    heads = message.stored_tokens <= message.exact_tokens < tokens
    if message.prompt_tokens != tokens or not expected or not heads:
        raise IntegrityError(
            f"expected an offer for {tokens} tokens from {first} on; the router's is {offered.value} up to "
            f"{message.kv_tokens} of {message.prompt_tokens}, {message.exact_tokens} of them exact, "
            f"{message.stored_tokens} in chunks of their own"
        )
    return LoadPlan(
        offered,
        first,
        message.kv_tokens,
        message.exact_tokens,
        message.stored_tokens,
        message.nothing_reason if offered is Extent.NOTHING else "",
        _seconds(message, "load_seconds"),
        _seconds(message, "first_token_seconds"),
        _seconds(message, "compute_seconds"),
        message.predicted_kl if message.HasField("predicted_kl") else None,
        message.gate_refusal,
        message.blended_tokens,
        seconds,
        message.request_id,
    )


def _seconds(message: pb.PlanBlendResponse, field: str) -> float | None:
    known = {
        "load_seconds": message.HasField("load_seconds"),
        "first_token_seconds": message.HasField("first_token_seconds"),
        "compute_seconds": message.HasField("compute_seconds"),
    }
    value: float = getattr(message, field)
    if known[field] and not (math.isfinite(value) and value >= 0):
        raise IntegrityError(f"expected {field} of at least 0; the router sent {value}")
    return value if known[field] else None


def store_header(saving: KvToSave, model: ServedModel, seconds_per_token: float | None) -> pb.StoreKvHeader:
    """What a stream of KV begins with."""
    request = saving.request
    number, kl_below = wire.level_fields(request.level)
    end = saving.begin + saving.layers[0][0].shape[1]
    return pb.StoreKvHeader(
        model=model.fingerprint,
        model_fingerprint=model.fingerprint,
        layout=convert.layout_to_wire(model.layout),
        token_ids=request.token_ids[:end].tolist(),
        begin=saving.begin,
        end=end,
        payload_bytes=model.layout.nbytes(end - saving.begin),
        exact_tokens=saving.exact_tokens,
        prefix_tokens=request.prefix_tokens,
        document_tokens=request.document_tokens,
        public_segments=sorted(request.public),
        level=number,
        kl_below=kl_below,
        document_ids=saving.document_ids,
        worker_seconds_per_token=seconds_per_token,
        ttl_seconds=saving.ttl_seconds,
        ttl_renewed=saving.ttl_renewed,
    )
