"""Identity: which model, which text, whose, computed after what. Deterministic across processes and machines.

Every digest is over an unambiguous encoding: each field is preceded by its length, so that no two different inputs
give the same bytes. Keys are HMAC-SHA-256 under the namespace's secret: without it they can be neither guessed nor
probed.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

import msgspec
import numpy as np

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import TokenIds, VariantKind

DIGEST_BYTES = 32
MIN_MASTER_BYTES = 32
PUBLIC = "public"
"""The namespace that all may read."""
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PUBLIC_SECRET = hashlib.sha256(b"kvquilt namespace: public").digest()


def framed(*fields: bytes) -> bytes:
    """Fields one after the other, each after its length: different fields give different bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in fields)


def token_bytes(token_ids: TokenIds) -> bytes:
    """Token ids as little-endian uint32."""
    return np.ascontiguousarray(token_ids, dtype="<u4").tobytes()


def check_namespace(name: str) -> str:
    """Return a namespace's name.

    Raises:
        BadRequestError: not 1 to 128 ASCII letters, digits, dots, dashes and underscores, the first a letter or digit.
    """
    if not _NAMESPACE.fullmatch(name):
        raise BadRequestError(
            "expected a namespace of 1..128 ASCII letters, digits, dots, dashes and underscores, not beginning with a "
            f"sign; got {name[:40]!r}"
        )
    return name


@dataclass(frozen=True, slots=True)
class Namespace:
    """A tenant's isolated part of the cache. Two namespaces with different secrets share no key."""

    name: str
    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        check_namespace(self.name)
        if len(self.secret) < 16:
            raise BadRequestError(f"expected a namespace secret of at least 16 bytes; got {len(self.secret)}")

    @classmethod
    def public(cls) -> "Namespace":
        """The shared namespace. Its secret is no secret: its texts are for everybody."""
        return cls(PUBLIC, _PUBLIC_SECRET)

    @classmethod
    def derived(cls, name: str, master_secret: bytes) -> "Namespace":
        """A namespace whose secret is derived from a master secret (HKDF-SHA-256, RFC 5869); or the public one.

        Raises:
            BadRequestError: a master secret below 32 bytes, or no namespace's name.
        """
        if name == PUBLIC:
            return cls.public()
        if len(master_secret) < MIN_MASTER_BYTES:
            raise BadRequestError(
                f"expected a master secret of at least {MIN_MASTER_BYTES} bytes; got {len(master_secret)}"
            )
        check_namespace(name)
        extracted = hmac.digest(b"kvquilt namespaces v1", master_secret, "sha256")
        return cls(name, hmac.digest(extracted, framed(b"kvquilt namespace v1", name.encode()) + b"\x01", "sha256"))


@dataclass(frozen=True, slots=True)
class ModelFingerprint:
    """Everything that changes a model's KV bytes.

    Attributes:
        architecture: class name and the configuration fields that shape the computation, as canonical JSON.
        rope: RoPE parameters, as canonical JSON.
        data_type: the type the model computes in.
        weights_digest: SHA-256 (hex) over all weights.
        tokenizer_digest: SHA-256 (hex) over the tokenizer, or "" where only token ids are used.
        adapter_digest: SHA-256 (hex) over the adapter (LoRA), or "" without one.
    """

    architecture: str
    rope: str
    data_type: str
    weights_digest: str
    tokenizer_digest: str = ""
    adapter_digest: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over all fields: what is stored, sent and compared."""
        parts = (
            self.architecture,
            self.rope,
            self.data_type,
            self.weights_digest,
            self.tokenizer_digest,
            self.adapter_digest,
        )
        return hashlib.sha256(framed(b"kvquilt fingerprint v1", *(part.encode() for part in parts))).hexdigest()

    @property
    def parts(self) -> dict[str, str]:
        """A digest (16 hex digits) of each field by its name, so that it can be told in which two models differ."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: hashlib.sha256(part.encode()).hexdigest()[:16] for name, part in named.items()}


def canonical_json(value: Mapping[str, object]) -> str:
    """JSON with sorted keys and no spaces: equal mappings give equal text."""
    return msgspec.json.encode(value, order="sorted").decode()


def check_digest(digest: bytes, what: str) -> bytes:
    """Return a 32-byte digest.

    Raises:
        BadRequestError: another length.
    """
    if len(digest) != DIGEST_BYTES:
        raise BadRequestError(f"expected a {what} of {DIGEST_BYTES} bytes; got {len(digest)}")
    return digest


def chunk_key(namespace: Namespace, model_fingerprint: str, token_ids: TokenIds) -> bytes:
    """Key of a chunk's text in a namespace for a model: 32 bytes."""
    message = framed(b"kvquilt chunk v1", model_fingerprint.encode(), token_bytes(token_ids))
    return hmac.digest(namespace.secret, message, "sha256")


def context_digest(token_ids: TokenIds) -> bytes:
    """Digest of the tokens that preceded a chunk when its KV was computed (none of them: an empty array): 32 bytes."""
    return hashlib.sha256(framed(b"kvquilt context v1", token_bytes(token_ids))).digest()


def variant_key(chunk: bytes, kind: VariantKind, context: bytes) -> bytes:
    """Key of one variant of a chunk: 32 bytes. The chunk key is the HMAC's key, so it inherits the secret."""
    return hmac.digest(chunk, framed(b"kvquilt variant v1", kind.value.encode(), context), "sha256")


def object_key(variant: bytes, form: StorageForm) -> bytes:
    """Key under which a store keeps a variant in a form: 32 bytes. All levels that the form serves share it."""
    return hmac.digest(variant, framed(b"kvquilt object v1", form.name.encode()), "sha256")
