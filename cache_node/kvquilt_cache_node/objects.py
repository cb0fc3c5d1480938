"""The node's work on objects that come in: check and encode them. No gRPC here."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import Array, KVChunk, KVLayout, Part, TokenIds


def check_container(key: bytes, data: bytes, meta: ObjectMeta) -> None:
    """Accept a container only if it is sound and is the object it is put as.

    Raises:
        IntegrityError: damaged.
        BadRequestError: another object than the key or the description says.
    """
    header = container.verify(data).header
    found = catalog.from_header(header)  # or a lost index could not be rebuilt from it
    if catalog.key_of(header) != key:
        raise BadRequestError("expected a container of the object key it is put under; its header gives another key")
    if meta != replace(found, document_ids=meta.document_ids, compute_seconds=meta.compute_seconds):
        raise BadRequestError("expected the description to agree with the container's header; it differs")


def encode_tensors(
    key: bytes,
    payload: bytes,
    layout: KVLayout,
    token_ids: TokenIds,
    rotated_from: int | None,
    identity: ChunkIdentity,
    meta: ObjectMeta,
    coder: JointCoder | None,
) -> bytes:
    """Encode raw tensors (layer by layer, keys then values) as `meta.form`, with the coder of its profile.

    Raises:
        BadRequestError: sizes or values that cannot be, or another object than the key says.
    """
    tokens = len(token_ids)
    if tokens != meta.tokens or len(payload) != layout.nbytes(tokens):
        raise BadRequestError(
            f"expected {layout.nbytes(meta.tokens)} bytes of {meta.tokens} tokens; got {len(payload)} of {tokens}"
        )
    tensors = _tensors(payload, layout, tokens)
    keys, values = zip(*((next(tensors), next(tensors)) for _ in layout.layers), strict=True)
    chunk = KVChunk(layout, token_ids, keys, values, rotated_from)
    data = container.encode(chunk, meta.form.level, identity, coder)
    if catalog.key_of(container.parse_head(data).header) != key:
        raise BadRequestError("expected the object key of these tensors; the request gives another key")
    return data


def _tensors(payload: bytes, layout: KVLayout, tokens: int) -> Iterator[Array]:
    offset = 0
    for layer in layout.layers:
        for part in (Part.KEYS, Part.VALUES):
            shape = layer.of(part, tokens)
            count = shape[0] * shape[1] * shape[2]
            yield np.frombuffer(payload, layout.data_type.numpy, count, offset).reshape(shape)
            offset += count * layout.data_type.itemsize
