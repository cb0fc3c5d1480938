"""What an index keeps about a stored chunk, beside its bytes."""

import base64
from dataclasses import dataclass, field

import msgspec

from kvquilt_codec import fingerprints
from kvquilt_codec import lifetime as lifetimes
from kvquilt_codec.container.head import Header
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import PUBLIC, check_digest, check_namespace, object_key, variant_key
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.types import MAX_CHUNK_TOKENS, VariantKind

MAX_DOCUMENT_ID_BYTES = 1024
MAX_DOCUMENTS_PER_OBJECT = 4096
MAX_COMPUTE_SECONDS = 1e9
MAX_SOURCES = 64
MAX_ATTENTION = MAX_CHUNK_TOKENS + 1.0
"""A token gives 1 in all; a little more for rounding."""


def check_document_id(document_id: str) -> str:
    """Return a document id.

    Raises:
        BadRequestError: empty, longer than 1,024 bytes of UTF-8, or with characters that are not printable.
    """
    if not document_id or len(document_id.encode("utf-8", "replace")) > MAX_DOCUMENT_ID_BYTES:
        raise BadRequestError(f"expected a document id of 1..{MAX_DOCUMENT_ID_BYTES} bytes; got {document_id[:40]!r}")
    if not document_id.isprintable():
        raise BadRequestError(f"expected a document id of printable characters; got {document_id[:40]!r}")
    return document_id


@dataclass(frozen=True, slots=True)
class ContextSource:
    """A chunk that preceded another one when its KV was computed, beyond the shared prefix.

    Attributes:
        chunk_key: key of its text.
        tokens: number of its tokens.
        inter: attention that the chunk's tokens gave to it: summed over them, the mean over layers and heads.

    Raises:
        BadRequestError: a key, a number of tokens or an attention that cannot be.
    """

    chunk_key: bytes
    tokens: int
    inter: float

    def __post_init__(self) -> None:
        check_digest(self.chunk_key, "chunk key of a source")
        if not 1 <= self.tokens <= MAX_CHUNK_TOKENS:
            raise BadRequestError(f"expected a source of 1..{MAX_CHUNK_TOKENS} tokens; got {self.tokens}")
        _check_attention("inter", self.inter)


@dataclass(frozen=True, slots=True)
class ObjectMeta:
    """Description of an object, given by its writer.

    Attributes:
        model_fingerprint: hex digest of the model.
        document_ids: documents that the chunk belongs to; empty for a shared prefix.
        tokens: number of tokens.
        variant: what preceded the chunk.
        form: how it is encoded.
        compute_seconds: measured seconds that computing the KV took.
        chunk_key: key of its text.
        context_digest: of all tokens that preceded the chunk.
        prefix_digest: of the shared prefix that these tokens begin with, also as `identity.context_digest`; of a chunk
            of the shared prefix itself that of the part before it.
        sources: what preceded the chunk beyond the shared prefix, in order; at most 64.
        intra: attention that the chunk's tokens gave to the chunk itself, in the unit of `ContextSource.inter`.
        fingerprints: of its text, by which it is found inside longer ones; as `fingerprints.pack` gives them.
        namespace: whose it is; its keys and fingerprints are under that namespace's secret.
        lifetime: its time to live; `None` leaves it to the node.

    Raises:
        BadRequestError: digests, sources, attention, fingerprints or a namespace's name that cannot be.
    """

    model_fingerprint: str
    document_ids: tuple[str, ...]
    tokens: int
    variant: VariantKind
    form: StorageForm
    compute_seconds: float
    chunk_key: bytes
    context_digest: bytes
    prefix_digest: bytes
    sources: tuple[ContextSource, ...] = ()
    intra: float = 0.0
    fingerprints: bytes = b""
    namespace: str = PUBLIC
    lifetime: Lifetime | None = None

    def __post_init__(self) -> None:
        check_digest(self.chunk_key, "chunk key")
        check_digest(self.context_digest, "context digest")
        check_digest(self.prefix_digest, "prefix digest")
        if len(self.sources) > MAX_SOURCES:
            raise BadRequestError(f"expected at most {MAX_SOURCES} sources of a context; got {len(self.sources)}")
        _check_attention("intra", self.intra)
        fingerprints.unpack(self.fingerprints, self.tokens)
        check_namespace(self.namespace)


def _check_attention(name: str, value: float) -> None:
    if not 0 <= value <= MAX_ATTENTION:
        raise BadRequestError(f"expected {name} in 0..{MAX_ATTENTION:g}, attention summed over tokens; got {value}")


@dataclass(frozen=True, slots=True)
class ProfileMeta:
    """Description of a stored profile: the model that it is for. Its key is its digest."""

    model_fingerprint: str


@dataclass(frozen=True, slots=True)
class GateMeta:
    """Description of a stored gate: what it was measured of. Its key is its digest."""

    model_fingerprint: str
    profile_digest: str


@dataclass(frozen=True, slots=True)
class AuditsMeta:
    """Description of stored audits: what the gate that they are of was measured of. Their key is their digest."""

    model_fingerprint: str
    profile_digest: str


FileMeta = GateMeta | AuditsMeta
"""What is kept with a profile, as long as it is."""

Meta = ObjectMeta | ProfileMeta | FileMeta
"""What a store keeps: objects, which hold the KV of a chunk, profiles, the gates that were measured with them, and what
audits found of these gates."""


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """A stored profile.

    Attributes:
        digest: hex SHA-256 of its file.
        model_fingerprint: the model that it is for.
        stored_bytes: its size.
        objects: how many stored objects are coded with it.
        gates: how many stored gates were measured with it.
    """

    digest: str
    model_fingerprint: str
    stored_bytes: int
    objects: int
    gates: int


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A stored gate, or stored audits.

    Attributes:
        digest: hex SHA-256 of the file.
        model_fingerprint: the model that the gate was measured of.
        profile_digest: the codec profile that it was measured with.
        stored_bytes: its size.
        created: when it was stored, in seconds since the epoch.
    """

    digest: str
    model_fingerprint: str
    profile_digest: str
    stored_bytes: int
    created: float


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the index knows it. Times are seconds since the epoch.

    `meta` is without its fingerprints (chunks are found by them, nobody reads them there) and without its lifetime.

    Attributes:
        expires: when its time to live ends, as of now; `None`: never.
        pinned: whether it is kept from eviction.
        node: address of the node that told of it, where there are several.
    """

    key: bytes
    meta: ObjectMeta
    stored_bytes: int
    created: float
    last_used: float
    use_count: int
    expires: float | None = None
    pinned: bool = False
    node: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class ChunkMatch:
    """A stored chunk that has a fingerprint that was asked for: a guess, to be verified token by token.

    Attributes:
        fingerprint: which of those asked for, from 0.
        chunk_key: of the chunk.
        offset: of the fingerprint's k-gram in the chunk.
        tokens: of the chunk.
    """

    fingerprint: int
    chunk_key: bytes
    offset: int
    tokens: int


_Sources = tuple[tuple[str, int, float], ...]


def encode_sources(sources: tuple[ContextSource, ...]) -> str:
    """Sources as JSON: an array of chunk key in hex, tokens and inter each."""
    return msgspec.json.encode([(source.chunk_key.hex(), source.tokens, source.inter) for source in sources]).decode()


def decode_sources(text: str) -> tuple[ContextSource, ...]:
    """Sources from what `encode_sources` gave.

    Raises:
        ValueError, BadRequestError: something else.
    """
    given = msgspec.json.decode(text, type=_Sources)
    return tuple(ContextSource(bytes.fromhex(key), tokens, inter) for key, tokens, inter in given)


def to_attributes(meta: ObjectMeta) -> dict[str, str]:
    """What a container's header must carry beside its own fields, so that a lost index can be rebuilt from it."""
    return {
        "compute_seconds": repr(meta.compute_seconds),
        "document_ids": msgspec.json.encode(meta.document_ids).decode(),
        "fingerprints": base64.b85encode(meta.fingerprints).decode(),
        "intra": repr(meta.intra),
        "namespace": meta.namespace,
        "prefix_digest": meta.prefix_digest.hex(),
        "sources": encode_sources(meta.sources),
        **lifetimes.to_attributes(meta.lifetime),
    }


def from_header(header: Header) -> ObjectMeta:
    """The description that a container's header gives; missing attributes but `prefix_digest` take neutral values.

    Raises:
        IntegrityError: an attribute is malformed, or the prefix digest is missing.
    """
    given = header.attributes
    try:
        documents = msgspec.json.decode(given.get("document_ids", "[]"), type=tuple[str, ...])
        for document_id in documents:
            check_document_id(document_id)
        meta = ObjectMeta(
            model_fingerprint=header.model_fingerprint,
            document_ids=documents,
            tokens=header.tokens,
            variant=header.variant,
            form=header.form,
            compute_seconds=float(given.get("compute_seconds", "0")),
            chunk_key=bytes.fromhex(header.chunk_key),
            context_digest=bytes.fromhex(header.context_digest),
            prefix_digest=bytes.fromhex(given.get("prefix_digest", "")),
            sources=decode_sources(given.get("sources", "[]")),
            intra=float(given.get("intra", "0")),
            fingerprints=base64.b85decode(given.get("fingerprints", "")),
            namespace=given.get("namespace", PUBLIC),
            lifetime=lifetimes.from_attributes(given),
        )
    except (msgspec.MsgspecError, ValueError, BadRequestError) as error:
        raise IntegrityError(f"expected well-formed attributes in the header; got {error}") from None
    if not 0 <= meta.compute_seconds < MAX_COMPUTE_SECONDS or len(documents) > MAX_DOCUMENTS_PER_OBJECT:
        raise IntegrityError(
            f"expected compute_seconds in 0..{MAX_COMPUTE_SECONDS:g} and at most {MAX_DOCUMENTS_PER_OBJECT} documents "
            f"in the header; got {meta.compute_seconds} and {len(documents)}"
        )
    return meta


def key_of(header: Header) -> bytes:
    """The key under which a store keeps this container."""
    variant = variant_key(bytes.fromhex(header.chunk_key), header.variant, bytes.fromhex(header.context_digest))
    return object_key(variant, header.form)
