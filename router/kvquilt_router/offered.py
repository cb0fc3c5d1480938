"""KV that a worker offers to store: what its header says, checked."""

from dataclasses import dataclass

import numpy as np

from kvquilt_codec.catalog import MAX_DOCUMENTS_PER_OBJECT, check_document_id
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError
from kvquilt_codec.lifetime import Ttl
from kvquilt_codec.types import check_token_ids
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_router import wire
from kvquilt_router.engine import LoadedModel
from kvquilt_router.prefixes import begins, uncut
from kvquilt_router.types import Prompt
from kvquilt_rpc import convert


@dataclass(frozen=True, slots=True, eq=False)
class OfferedKv:
    """KV of the tokens from `begin` up to `end`.

    Attributes:
        prompt: all tokens up to `end`; its question is what follows the documents, and may be empty.
        begin: see above.
        end: see above.
        documents: ids under which it can be forgotten.
        seconds_per_token: what computing it took the worker; `None`: not known.
        ttl: time to live; `None`: the router's default.
    """

    prompt: Prompt
    begin: int
    end: int
    documents: tuple[str, ...]
    seconds_per_token: float | None
    ttl: Ttl | None


def offered_kv(message: pb.StoreKvHeader, model: LoadedModel) -> OfferedKv:
    """What a worker offers.

    Raises:
        FingerprintMismatchError: it is of another model, or in another layout.
        BadRequestError: tokens that the model does not have, KV beyond them or beyond those that are exact, lengths
            that do not fit, another size than the layout's.
    """
    _check_model(message, model)
    begin, end = message.begin, message.end
    tokens = check_token_ids(list(message.token_ids), model.engine.traits.max_context)
    model.engine.check(tokens, len(tokens))
    if not begin < end <= len(tokens):
        raise BadRequestError(f"expected KV of some of the {len(tokens)} tokens; got {begin} to {end}")
    if not message.HasField("exact_tokens") or end > message.exact_tokens:
        raise BadRequestError(
            f"expected exact_tokens of at least {end}, where the KV ends: only what a prefill of these tokens gives "
            f"can be stored, nothing that was blended or computed after that; got {message.exact_tokens}",
            reason="not_exact",
        )
    expected = model.engine.traits.layout.nbytes(end - begin)
    if message.payload_bytes != expected:
        raise BadRequestError(
            f"expected {expected} bytes of KV for {end - begin} tokens; {message.payload_bytes} were declared"
        )
    if len(message.document_ids) > MAX_DOCUMENTS_PER_OBJECT:
        raise BadRequestError(f"expected at most {MAX_DOCUMENTS_PER_OBJECT} document ids; got more")
    documents = tuple(check_document_id(document) for document in message.document_ids)
    ttl = Ttl(message.ttl_seconds, message.ttl_renewed) if message.HasField("ttl_seconds") else None
    return OfferedKv(_prompt(message, model, end), begin, end, documents, wire.seconds_per_token(message), ttl)


def _check_model(message: pb.StoreKvHeader, model: LoadedModel) -> None:
    layout = convert.layout_from_wire(message.layout)
    if message.model_fingerprint != model.fingerprint or layout != model.engine.traits.layout:
        raise FingerprintMismatchError(
            f"expected KV of model {model.fingerprint[:16]} in {model.engine.traits.layout.data_type.value}, "
            f"{len(model.engine.traits.layout.layers)} layers; got that of {message.model_fingerprint[:16]!r} in "
            f"{layout.data_type.value}, {len(layout.layers)} layers"
        )


def _prompt(message: pb.StoreKvHeader, model: LoadedModel, end: int) -> Prompt:
    """The tokens up to `end`, cut into segments; a document that goes on beyond it is left to what follows."""
    tokens = np.asarray(message.token_ids, np.uint32)
    lengths = list(message.document_tokens)
    if len(lengths) > wire.MAX_SEGMENTS or any(length < 1 for length in lengths):
        raise BadRequestError(f"expected at most {wire.MAX_SEGMENTS} documents of at least one token; got others")
    if not message.HasField("prefix_tokens"):
        if lengths or message.public_segments:
            raise BadRequestError("expected prefix_tokens (0 for none) with documents or public segments; it is unset")
        head = wire.shared_prefix(None, model)
        return uncut(tokens[:end], len(head) if begins(tokens[:end], head) else 0)
    bounds = np.cumsum([message.prefix_tokens, *lengths]).tolist()
    if bounds[-1] > len(tokens):
        raise BadRequestError(
            f"expected a shared prefix and documents of {len(tokens)} tokens at most; got {bounds[-1]}"
        )
    if message.public_segments and max(message.public_segments) > len(lengths):
        raise BadRequestError(f"expected public segments up to {len(lengths)}; got {max(message.public_segments)}")
    known = [bound for bound in bounds if bound <= end]
    if not known:
        raise BadRequestError(
            f"expected KV beyond the shared prefix of {message.prefix_tokens} tokens; it ends at {end}"
        )
    prefix, *parts = np.split(tokens[:end], known)
    public = frozenset(message.public_segments)
    known_prefix = 0 in public or np.array_equal(prefix, wire.shared_prefix(None, model))
    return Prompt(prefix, tuple(parts[:-1]), parts[-1], public=public, known_prefix=bool(public) and known_prefix)
