"""What an index keeps about a stored chunk, beside its bytes."""

from dataclasses import dataclass

import msgspec

from kvquilt_codec.container.head import Header
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import object_key, variant_key
from kvquilt_codec.types import VariantKind

MAX_DOCUMENT_ID_BYTES = 1024
MAX_DOCUMENTS_PER_OBJECT = 4096
MAX_COMPUTE_SECONDS = 1e9


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
class ObjectMeta:
    """Description of an object, given by its writer.

    Attributes:
        model_fingerprint: hex digest of the model.
        document_ids: documents that the chunk belongs to; empty for a shared prefix.
        tokens: number of tokens.
        variant: what preceded the chunk.
        form: how it is encoded.
        compute_seconds: measured seconds that computing the KV took.
    """

    model_fingerprint: str
    document_ids: tuple[str, ...]
    tokens: int
    variant: VariantKind
    form: StorageForm
    compute_seconds: float


@dataclass(frozen=True, slots=True)
class ProfileMeta:
    """Description of a stored profile: the model that it is for. Its key is its digest."""

    model_fingerprint: str


Meta = ObjectMeta | ProfileMeta
"""What a store keeps: objects, which hold the KV of a chunk, and profiles."""


@dataclass(frozen=True, slots=True)
class ProfileInfo:
    """A stored profile.

    Attributes:
        digest: hex SHA-256 of its file.
        model_fingerprint: the model that it is for.
        stored_bytes: its size.
        objects: how many stored objects are coded with it.
    """

    digest: str
    model_fingerprint: str
    stored_bytes: int
    objects: int


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """An object as the index knows it. Times are seconds since the epoch."""

    key: bytes
    meta: ObjectMeta
    stored_bytes: int
    created: float
    last_used: float
    use_count: int


@dataclass(frozen=True, slots=True)
class ForgetReceipt:
    """What a forget deleted, and how many objects stay because other documents hold them too."""

    deleted: tuple[bytes, ...]
    deleted_bytes: int
    kept_shared: int


def to_attributes(meta: ObjectMeta) -> dict[str, str]:
    """What a container's header must carry beside its own fields, so that a lost index can be rebuilt from it."""
    return {
        "compute_seconds": repr(meta.compute_seconds),
        "document_ids": msgspec.json.encode(meta.document_ids).decode(),
    }


def from_header(header: Header) -> ObjectMeta:
    """The description that a container's header gives; missing attributes take neutral values.

    Raises:
        IntegrityError: an attribute is malformed.
    """
    try:
        documents = msgspec.json.decode(header.attributes.get("document_ids", "[]"), type=tuple[str, ...])
        seconds = float(header.attributes.get("compute_seconds", "0"))
        for document_id in documents:
            check_document_id(document_id)
    except (msgspec.MsgspecError, ValueError, BadRequestError) as error:
        raise IntegrityError(f"expected well-formed attributes in the header; got {error}") from None
    if not 0 <= seconds < MAX_COMPUTE_SECONDS or len(documents) > MAX_DOCUMENTS_PER_OBJECT:
        raise IntegrityError(
            f"expected compute_seconds in 0..{MAX_COMPUTE_SECONDS:g} and at most {MAX_DOCUMENTS_PER_OBJECT} documents "
            f"in the header; got {seconds} and {len(documents)}"
        )
    return ObjectMeta(header.model_fingerprint, documents, header.tokens, header.variant, header.form, seconds)


def key_of(header: Header) -> bytes:
    """The key under which a store keeps this container."""
    variant = variant_key(bytes.fromhex(header.chunk_key), header.variant, bytes.fromhex(header.context_digest))
    return object_key(variant, header.form)
