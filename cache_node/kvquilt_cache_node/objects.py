"""The node's work on objects: check and encode what comes in, read and decode what goes out. No gRPC here."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kvquilt_cache_node.types import Store
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity, ContainerHead, DecodedChunk
from kvquilt_codec.container.head import PREFIX
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.types import Array, KVChunk, KVLayout, LayerShape, Part, TokenIds


def check_container(key: bytes, data: bytes, meta: ObjectMeta) -> None:
    """Accept a container only if it is sound and is the object it is put as.

    Raises:
        IntegrityError: damaged.
        BadRequestError: another object than the key or the description says.
    """
    header = container.verify(data).header
    catalog.from_header(header)  # or a lost index could not be rebuilt from it
    if catalog.key_of(header) != key:
        raise BadRequestError("expected a container of the object key it is put under; its header gives another key")
    said = (meta.model_fingerprint, meta.tokens, meta.variant, meta.level)
    if said != (header.model_fingerprint, header.tokens, header.variant, header.level):
        raise BadRequestError("expected the description to agree with the container's header; it differs")


def encode_tensors(
    key: bytes,
    payload: bytes,
    layout: KVLayout,
    token_ids: TokenIds,
    rotated_from: int | None,
    identity: ChunkIdentity,
    meta: ObjectMeta,
) -> bytes:
    """Encode raw tensors (layer by layer, keys then values) at `meta.level`.

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
    data = container.encode(chunk, meta.level, identity)
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


@dataclass(frozen=True, slots=True)
class Reading:
    """What a get sends: the pieces in order, and their total size."""

    head: ContainerHead
    pieces: list[bytes]
    layout: KVLayout | None = None

    @property
    def nbytes(self) -> int:
        """Total bytes of the pieces."""
        return sum(len(piece) for piece in self.pieces)


async def read(store: Store, key: bytes, model_fingerprint: str, layers: range | None, decoded: bool) -> Reading:
    """Read an object for a caller that runs `model_fingerprint`.

    Raises:
        NotFoundError: no such object.
        FingerprintMismatchError: it is of another model.
        IntegrityError: its bytes are damaged; it is deleted, so that it can be stored again.
        BadRequestError: the layer range is outside the model.
    """
    try:
        reading = await _read(store, key, model_fingerprint, layers, decoded)
    except IntegrityError:
        await store.forget([key], [])
        raise
    await store.touch([key])
    return reading


async def _read(store: Store, key: bytes, model_fingerprint: str, layers: range | None, decoded: bool) -> Reading:
    (prefix,) = await store.get(key, [(0, PREFIX.size)])
    (head_bytes,) = await store.get(key, [(0, container.head_bytes(prefix))])
    head = container.parse_head(head_bytes)
    head.check_fingerprint(model_fingerprint)
    whole = range(len(head.layout.layers))
    sections = await store.get(key, head.byte_ranges(layers or whole))
    if not decoded:
        return Reading(head, [head_bytes, *sections])
    chunk = await asyncio.to_thread(_decode, [head_bytes, *sections], model_fingerprint, layers)
    pieces = [tensor.tobytes() for layer in chunk.kv for tensor in (layer.keys, layer.values)]
    shapes: tuple[LayerShape, ...] = head.layout.layers[chunk.layers.start : chunk.layers.stop]
    return Reading(head, pieces, KVLayout(head.layout.data_type, shapes))


def _decode(pieces: list[bytes], model_fingerprint: str, layers: range | None) -> DecodedChunk:
    decoder = container.ContainerDecoder(model_fingerprint, layers)
    for piece in pieces:
        decoder.feed(piece)
    return decoder.finish()
