"""The vocabulary of an inventory. The one place that says what its columns are."""

from dataclasses import dataclass

from kvquilt_rpc.node_objects import ListedObject

TIME = "timestamp[us, tz=UTC]"
NAMES = "list<element: string not null>"


@dataclass(frozen=True, slots=True)
class InventoryRow:
    """A stored object.

    Attributes:
        node: address of the node that has it.
        tier: kind of that node's store.
        namespace: whose it is.
        model_fingerprint: of which model.
        object_key: 32 bytes.
        chunk_key: of its text, 32 bytes.
        documents: ids of documents that hold it, the first 1,024 by name.
        document_count: how many hold it.
        variant: what preceded the chunk: "exact", "pair", "warm" or "base".
        level: the finest that it serves.
        profile_digest: of the profile that it is coded with; empty: none.
        tokens: of the chunk.
        stored_bytes: of the object.
        created: when it was stored, in seconds since the epoch.
        last_used: when it was used last; when it was stored if it never was.
        uses: how often it was used: read, or touched by a prefetch that found it.
        compute_seconds: measured seconds that computing it took; of what was computed together with others its share.
        saved_seconds: `uses` times `compute_seconds`: an estimate, since not every use saves all of it.
    """

    node: str
    tier: str
    namespace: str
    model_fingerprint: str
    object_key: bytes
    chunk_key: bytes
    documents: tuple[str, ...]
    document_count: int
    variant: str
    level: str
    profile_digest: str
    tokens: int
    stored_bytes: int
    created: float
    last_used: float
    uses: int
    compute_seconds: float
    saved_seconds: float

    @classmethod
    def of(cls, node: str, tier: str, item: ListedObject) -> "InventoryRow":
        """What a node listed."""
        info, meta = item.info, item.info.meta
        return cls(
            node,
            tier,
            meta.namespace,
            meta.model_fingerprint,
            info.key,
            meta.chunk_key,
            item.documents,
            item.document_count,
            meta.variant.value,
            meta.form.level.value,
            meta.form.profile_digest,
            meta.tokens,
            info.stored_bytes,
            info.created,
            info.last_used,
            info.use_count,
            meta.compute_seconds,
            info.use_count * meta.compute_seconds,
        )


ARROW_TYPES = {
    "node": "string",
    "tier": "string",
    "namespace": "string",
    "model_fingerprint": "string",
    "object_key": "binary",
    "chunk_key": "binary",
    "documents": NAMES,
    "document_count": "int64",
    "variant": "string",
    "level": "string",
    "profile_digest": "string",
    "tokens": "int32",
    "stored_bytes": "int64",
    "created": TIME,
    "last_used": TIME,
    "uses": "int64",
    "compute_seconds": "double",
    "saved_seconds": "double",
}
"""Columns of the Parquet file and their Arrow types: the fields of `InventoryRow` in their order. Nothing is null."""
