"""Who an object of LMCache is in kvquilt: its keys, its model's fingerprint, its namespace. Pure computation.

LMCache tells no token ids. Its chunk hash stands for them and for all that preceded them; the rest of its key, the
shape and the element type of what is stored, and what the operator says of the model make it an identity of ours
(docs/formats.md, "Objects of LMCache").
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Protocol

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import Namespace, canonical_json, framed, object_key, variant_key
from kvquilt_codec.types import VariantKind

CONTEXT = hashlib.sha256(framed(b"kvquilt lmcache context v1")).digest()
"""Stands for the tokens that preceded: the chunk hash, and so the chunk key, depends on them already."""
NO_PREFIX = hashlib.sha256(framed(b"kvquilt lmcache prefix v1")).digest()


class LMCacheKey(Protocol):
    """What LMCache's `ObjectKey` gives."""

    @property
    def chunk_hash(self) -> bytes:
        """Of the chunk's tokens and all before them."""

    @property
    def model_name(self) -> str:
        """As the engine names the model."""

    @property
    def kv_rank(self) -> int:
        """Which part of the KV, of which parallel set-up."""

    @property
    def object_group_id(self) -> int:
        """Which layers' KV, where a model has several kinds."""

    @property
    def cache_salt(self) -> str:
        """Whose it is."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of an object: element type, as torch names it, and shape."""

    data_type: str
    shape: tuple[int, ...]


Layout = tuple[TensorSpec, ...]
"""The tensors of an object, one after the other."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Keys of an object.

    Attributes:
        fingerprint: of the model, hex.
        chunk_key: of the text.
        object_key: under which nodes keep it.
        namespace: whose it is.
    """

    fingerprint: str
    chunk_key: bytes
    object_key: bytes
    namespace: str


def fingerprint(model_name: str, revision: str, layout: Layout) -> str:
    """What stands for a model's fingerprint: SHA-256 (hex) of its name, the operator's word on it, and the layout.

    It is no digest of weights: LMCache does not give them. It equals no `ModelFingerprint.digest`.
    """
    tensors = canonical_json({"tensors": [[spec.data_type, list(spec.shape)] for spec in layout]})
    message = framed(b"kvquilt lmcache model v1", model_name.encode(), revision.encode(), tensors.encode())
    return hashlib.sha256(message).hexdigest()


def identity(key: LMCacheKey, namespace: Namespace, model_fingerprint: str, form: StorageForm) -> Identity:
    """Keys of an object; HMAC-SHA-256 under the namespace's secret, of every field of LMCache's key.

    Raises:
        BadRequestError: an empty chunk hash, or numbers that no key has.
    """
    if not key.chunk_hash or not 0 <= key.kv_rank < 1 << 64 or not 0 <= key.object_group_id < 1 << 64:
        raise BadRequestError(f"expected a chunk hash, a rank and a group; got {key!r:.200}")
    message = framed(
        b"kvquilt lmcache chunk v1",
        model_fingerprint.encode(),
        key.chunk_hash,
        key.kv_rank.to_bytes(8, "little"),
        key.object_group_id.to_bytes(8, "little"),
        key.cache_salt.encode(),
    )
    chunk = hmac.digest(namespace.secret, message, "sha256")
    variant = variant_key(chunk, VariantKind.EXACT, CONTEXT)
    return Identity(model_fingerprint, chunk, object_key(variant, form), namespace.name)


def salt_namespace(salt: str, master_secret: bytes) -> str:
    """Name of a salt's own namespace: it tells nothing of the salt to who does not know the master secret."""
    digest = hmac.digest(master_secret, framed(b"kvquilt lmcache salt v1", salt.encode()), "sha256")
    return f"salt-{digest.hex()[:32]}"


def document_id(model_name: str) -> str:
    """The document that holds all objects of a model in a namespace, so that they can be forgotten by it."""
    plain = f"lmcache:{model_name}"
    if model_name.isprintable() and len(plain.encode("utf-8", "replace")) <= 1024:
        return plain
    return f"lmcache:{hashlib.sha256(model_name.encode('utf-8', 'surrogatepass')).hexdigest()}"
