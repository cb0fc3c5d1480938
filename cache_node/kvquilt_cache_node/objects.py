"""The node's work on objects: check and encode what comes in, read and decode what goes out. No gRPC here."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from kvquilt_cache_node.profiles import Profiles
from kvquilt_cache_node.types import Namespaces, Store
from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity, ContainerHead, DecodedChunk
from kvquilt_codec.container.head import PREFIX
from kvquilt_codec.errors import BadRequestError, IntegrityError, NotFoundError
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.types import Array, KVChunk, KVLayout, LayerShape, Part, TokenIds


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


@dataclass(frozen=True, slots=True)
class Asked:
    """What of an object is asked for.

    Attributes:
        layers: model layers; `None`: all.
        quality_layers: how many, the coarsest first; `None`: all.
        held: how many of them the caller has already.
        decoded: raw tensors instead of sections.

    Raises:
        BadRequestError: nothing, or tensors of which a part is held elsewhere.
    """

    layers: range | None = None
    quality_layers: int | None = None
    held: int = 0
    decoded: bool = False

    def __post_init__(self) -> None:
        if self.layers is not None and not self.layers:
            raise BadRequestError(f"expected a range of at least one layer; got {self.layers}")
        if self.decoded and self.held:
            raise BadRequestError("expected an encoded read of the quality layers that are missing; got decoded")


async def read(
    store: Store,
    profiles: Profiles,
    key: bytes,
    model_fingerprint: str,
    asked: Asked,
    namespaces: Namespaces = None,
) -> Reading:
    """Read an object, or a part of it and no more, for a caller that runs `model_fingerprint`; a use of it.

    Raises:
        NotFoundError: no such object of these namespaces, or (decoded) not the profile that it is coded with.
        FingerprintMismatchError: it is of another model.
        IntegrityError: its bytes are damaged; it is deleted, so that it can be stored again.
        BadRequestError: layers or quality layers that the object has not.
    """
    # First, so that another namespace's object takes as long as one that does not exist.
    if not await store.touch([key], (), namespaces) and namespaces is not None:
        raise NotFoundError(f"expected object {key.hex()[:16]}... in the store; it is not there")
    try:
        (prefix,) = await store.get(key, [(0, PREFIX.size)])
        (head_bytes,) = await store.get(key, [(0, container.head_bytes(prefix))])
        head = container.parse_head(head_bytes)
        head.check_fingerprint(model_fingerprint)
        layers = range(len(head.layout.layers)) if asked.layers is None else asked.layers
        sections = await store.get(key, head.byte_ranges(layers, asked.quality_layers, asked.held))
    except IntegrityError:
        await _drop(store, key)
        raise
    if not asked.decoded:
        reading = Reading(head, [head_bytes, *sections])
    else:
        digest = head.header.profile_digest
        coder = await profiles.coder(digest) if digest else None
        try:
            reading = await _decoded(head, [head_bytes, *sections], layers, asked, coder)
        except IntegrityError:
            await _drop(store, key)
            raise
    return reading


async def _drop(store: Store, key: bytes) -> None:
    """Delete a damaged object; what a caller mistook for an object (a profile) stays."""
    if await store.stat([key]):
        await store.forget([key], [])


async def _decoded(
    head: ContainerHead, pieces: list[bytes], layers: range, asked: Asked, coder: JointCoder | None
) -> Reading:
    chunk = await asyncio.to_thread(_decode, head, pieces, layers, asked, coder)
    tensors = [tensor.tobytes() for layer in chunk.kv for tensor in (layer.keys, layer.values)]
    shapes: tuple[LayerShape, ...] = head.layout.layers[layers.start : layers.stop]
    return Reading(head, tensors, KVLayout(head.layout.data_type, shapes))


def _decode(
    head: ContainerHead, pieces: list[bytes], layers: range, asked: Asked, coder: JointCoder | None
) -> DecodedChunk:
    coders = None if coder is None else lambda _: coder
    decoder = container.ContainerDecoder(head.header.model_fingerprint, layers, asked.quality_layers, coders)
    for piece in pieces:
        decoder.feed(piece)
    return decoder.finish()
