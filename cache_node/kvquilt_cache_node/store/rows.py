"""The schema of the index, and its rows to the codec's vocabulary and back."""

from collections.abc import Iterator

from kvquilt_codec.catalog import (
    AuditsMeta,
    GateMeta,
    Meta,
    ObjectInfo,
    ObjectMeta,
    ProfileMeta,
    decode_sources,
    encode_sources,
)
from kvquilt_codec.fingerprints import unpack
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.types import VariantKind

SCHEMA = """
CREATE TABLE IF NOT EXISTS objects (
  key BLOB PRIMARY KEY, kind TEXT NOT NULL, namespace TEXT NOT NULL, model_fingerprint TEXT NOT NULL,
  tokens INTEGER NOT NULL, variant TEXT NOT NULL, form TEXT NOT NULL, compute_seconds REAL NOT NULL,
  chunk_key BLOB NOT NULL, context_digest BLOB NOT NULL, prefix_digest BLOB NOT NULL, sources TEXT NOT NULL,
  intra REAL NOT NULL, stored_bytes INTEGER NOT NULL, created REAL NOT NULL, last_used REAL NOT NULL,
  use_count INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS objects_by_use ON objects (last_used);
CREATE INDEX IF NOT EXISTS others_by_use ON objects (last_used, key) WHERE kind <> 'object';
CREATE INDEX IF NOT EXISTS objects_by_form ON objects (form);
CREATE INDEX IF NOT EXISTS objects_by_namespace ON objects (namespace, stored_bytes);
CREATE INDEX IF NOT EXISTS objects_by_owner ON objects (namespace, key);
CREATE INDEX IF NOT EXISTS objects_by_chunk ON objects (namespace, chunk_key, prefix_digest, last_used);
CREATE TABLE IF NOT EXISTS documents (
  namespace TEXT NOT NULL, document_id TEXT NOT NULL, key BLOB NOT NULL REFERENCES objects ON DELETE CASCADE,
  PRIMARY KEY (namespace, document_id, key)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS documents_by_key ON documents (key);
CREATE TABLE IF NOT EXISTS fingerprints (
  namespace TEXT NOT NULL, fingerprint BLOB NOT NULL, chunk_key BLOB NOT NULL, offset INTEGER NOT NULL,
  tokens INTEGER NOT NULL, PRIMARY KEY (namespace, fingerprint, chunk_key, offset)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS fingerprints_by_chunk ON fingerprints (namespace, chunk_key);
CREATE TRIGGER IF NOT EXISTS last_of_a_chunk AFTER DELETE ON objects
  WHEN NOT EXISTS (SELECT 1 FROM objects WHERE chunk_key = OLD.chunk_key AND namespace = OLD.namespace)
  BEGIN DELETE FROM fingerprints WHERE chunk_key = OLD.chunk_key AND namespace = OLD.namespace; END;
"""
VERSION = 7

COLUMNS = (
    "key, namespace, model_fingerprint, tokens, variant, form, compute_seconds, chunk_key, context_digest, "
    "prefix_digest, sources, intra, stored_bytes, created, last_used, use_count"
)
"""The order of a `Row`."""
INSERT = f"INSERT INTO objects (kind, {COLUMNS}) VALUES ({','.join('?' * 17)})"  # noqa: S608  constants

Row = tuple[bytes, str, str, int, str, str, float, bytes, bytes, bytes, str, float, int, float, float, int]


_KINDS = {ObjectMeta: "object", ProfileMeta: "profile", GateMeta: "gate", AuditsMeta: "audits"}


def kind_of(meta: Meta) -> str:
    """What the column `kind` says."""
    return _KINDS[type(meta)]


def namespace_of(meta: Meta) -> str:
    """Whose it is; empty: nobody's."""
    return meta.namespace if isinstance(meta, ObjectMeta) else ""


def row_of(key: bytes, meta: Meta, size: int, now: float) -> Row:
    """The row of what is new. A profile and what is kept with it have its digest as their form, like its objects.

    They are of no namespace.
    """
    if not isinstance(meta, ObjectMeta):
        form = key.hex() if isinstance(meta, ProfileMeta) else meta.profile_digest
        return (key, "", meta.model_fingerprint, 0, "", form, 0.0, b"", b"", b"", "[]", 0.0, size, now, now, 0)
    described = (meta.tokens, meta.variant.value, meta.form.name, meta.compute_seconds)
    context = (meta.chunk_key, meta.context_digest, meta.prefix_digest, encode_sources(meta.sources), meta.intra)
    return (key, meta.namespace, meta.model_fingerprint, *described, *context, size, now, now, 0)


def fingerprint_rows(meta: ObjectMeta) -> Iterator[tuple[str, bytes, bytes, int, int]]:
    """Namespace, fingerprint, chunk key, offset and tokens of each fingerprint."""
    for offset, digest in unpack(meta.fingerprints, meta.tokens):
        yield meta.namespace, digest, meta.chunk_key, offset, meta.tokens


def info_of(row: Row, documents: tuple[str, ...]) -> ObjectInfo:
    """What a row, and the documents that hold it, say of an object."""
    key, namespace, fingerprint, tokens, variant, form, seconds, chunk, context, prefix, sources, intra = row[:12]
    meta = ObjectMeta(
        fingerprint,
        documents,
        tokens,
        VariantKind(variant),
        StorageForm.named(form),
        seconds,
        chunk,
        context,
        prefix,
        decode_sources(sources),
        intra,
        namespace=namespace,
    )
    return ObjectInfo(key, meta, *row[12:])
