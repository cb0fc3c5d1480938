"""Wire messages to the codec's vocabulary and back. Everything that comes in is checked here."""

from dataclasses import replace

from kvquilt_codec.catalog import (
    MAX_COMPUTE_SECONDS,
    MAX_DOCUMENTS_PER_OBJECT,
    MAX_SOURCES,
    ChunkMatch,
    ContextSource,
    ObjectInfo,
    ObjectMeta,
    ProfileInfo,
    check_document_id,
)
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import DIGEST_BYTES, PUBLIC
from kvquilt_codec.levels import KlBound, LevelRequest
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.receipts import ForgetReceipt
from kvquilt_codec.tiers import Tier
from kvquilt_codec.types import MAX_CHUNK_TOKENS, MAX_LAYERS, DataType, KVLayout, LayerShape, Level, VariantKind
from kvquilt_proto.v1 import cache_node_pb2, common_pb2

_DATA_TYPES = {
    common_pb2.DATA_TYPE_BFLOAT16: DataType.BFLOAT16,
    common_pb2.DATA_TYPE_FLOAT16: DataType.FLOAT16,
    common_pb2.DATA_TYPE_FLOAT32: DataType.FLOAT32,
}
_LEVELS = {
    common_pb2.LEVEL_LOSSLESS: Level.LOSSLESS,
    common_pb2.LEVEL_HIGH: Level.HIGH,
    common_pb2.LEVEL_MEDIUM: Level.MEDIUM,
    common_pb2.LEVEL_LOW: Level.LOW,
}
_VARIANTS = {
    common_pb2.VARIANT_KIND_EXACT: VariantKind.EXACT,
    common_pb2.VARIANT_KIND_BASE: VariantKind.BASE,
    common_pb2.VARIANT_KIND_PAIR: VariantKind.PAIR,
    common_pb2.VARIANT_KIND_WARM: VariantKind.WARM,
}
_TIERS = {
    common_pb2.TIER_KIND_MEMORY: Tier.MEMORY,
    common_pb2.TIER_KIND_HOT: Tier.HOT,
    common_pb2.TIER_KIND_QUEUE: Tier.QUEUE,
    common_pb2.TIER_KIND_STORE: Tier.STORE,
}
_TIER_NUMBERS = {value: number for number, value in _TIERS.items()}
_DATA_TYPE_NUMBERS = {value: number for number, value in _DATA_TYPES.items()}
_LEVEL_NUMBERS = {value: number for number, value in _LEVELS.items()}
_VARIANT_NUMBERS = {value: number for number, value in _VARIANTS.items()}


def layout_to_wire(layout: KVLayout) -> common_pb2.KvLayout:
    """Encode a layout."""
    return common_pb2.KvLayout(
        data_type=_DATA_TYPE_NUMBERS[layout.data_type],
        layers=[
            common_pb2.LayerShape(kv_heads=layer.kv_heads, key_dim=layer.key_dim, value_dim=layer.value_dim)
            for layer in layout.layers
        ],
    )


def layout_from_wire(message: common_pb2.KvLayout) -> KVLayout:
    """Decode a layout.

    Raises:
        BadRequestError: unknown element type, or shapes beyond the limits.
    """
    data_type = _DATA_TYPES.get(message.data_type)
    if data_type is None:
        raise BadRequestError(f"expected a known data type; got {message.data_type}")
    if len(message.layers) > MAX_LAYERS:
        raise BadRequestError(f"expected at most {MAX_LAYERS} layers; got {len(message.layers)}")
    return KVLayout(data_type, tuple(LayerShape(s.kv_heads, s.key_dim, s.value_dim) for s in message.layers))


def level_to_wire(level: Level) -> common_pb2.Level.ValueType:
    """Encode a level."""
    return _LEVEL_NUMBERS[level]


def level_request_from_wire(number: int, kl_below: float | None, default: LevelRequest) -> LevelRequest:
    """Decode what a request asks for: a level, or instead a bound; with neither, the default.

    Raises:
        BadRequestError: both, an unknown level, or a bound that cannot be.
    """
    if kl_below is None:
        return default if number == common_pb2.LEVEL_UNSPECIFIED else level_from_wire(number)
    if number != common_pb2.LEVEL_UNSPECIFIED:
        raise BadRequestError(f"expected a level or a KL bound; got both: number {number} and {kl_below}")
    return KlBound(kl_below)


def level_from_wire(number: int) -> Level:
    """Decode a level.

    Raises:
        BadRequestError: unknown or unset.
    """
    level = _LEVELS.get(common_pb2.Level.ValueType(number))
    if level is None:
        raise BadRequestError(f"expected a level in {[level.value for level in Level]}; got number {number}")
    return level


def tier_to_wire(tier: Tier) -> common_pb2.TierKind.ValueType:
    """Encode where a read came from; unspecified if that is not known."""
    return _TIER_NUMBERS.get(tier, common_pb2.TIER_KIND_UNSPECIFIED)


def tier_from_wire(number: int) -> Tier:
    """Decode where a read came from; unknown if the node does not say, or a tier that this version does not know."""
    return _TIERS.get(common_pb2.TierKind.ValueType(number), Tier.UNKNOWN)


def variant_to_wire(variant: VariantKind) -> common_pb2.VariantKind.ValueType:
    """Encode a variant."""
    return _VARIANT_NUMBERS[variant]


def variant_from_wire(number: int) -> VariantKind:
    """Decode a variant.

    Raises:
        BadRequestError: unknown or unset.
    """
    variant = _VARIANTS.get(common_pb2.VariantKind.ValueType(number))
    if variant is None:
        raise BadRequestError(f"expected a variant in {[kind.value for kind in VariantKind]}; got number {number}")
    return variant


def meta_to_wire(meta: ObjectMeta) -> cache_node_pb2.ObjectMeta:
    """Encode an object's description."""
    return cache_node_pb2.ObjectMeta(
        model_fingerprint=meta.model_fingerprint,
        document_ids=meta.document_ids,
        token_count=meta.tokens,
        variant_kind=variant_to_wire(meta.variant),
        level=level_to_wire(meta.form.level),
        profile_digest=meta.form.profile_digest,
        compute_seconds=meta.compute_seconds,
        chunk_key=meta.chunk_key,
        context_digest=meta.context_digest,
        prefix_digest=meta.prefix_digest,
        sources=[
            cache_node_pb2.ContextSource(chunk_key=source.chunk_key, token_count=source.tokens, inter=source.inter)
            for source in meta.sources
        ],
        intra=meta.intra,
        fingerprints=meta.fingerprints,
        namespace=meta.namespace,
        lifetime=None if meta.lifetime is None else _lifetime_to_wire(meta.lifetime),
    )


def _lifetime_to_wire(lifetime: Lifetime) -> cache_node_pb2.Lifetime:
    return cache_node_pb2.Lifetime(
        ttl_seconds=lifetime.seconds, renewed=lifetime.renewed, until_unix_seconds=lifetime.until
    )


def meta_from_wire(message: cache_node_pb2.ObjectMeta) -> ObjectMeta:
    """Decode an object's description.

    Raises:
        BadRequestError: a field is missing or beyond its limits.
    """
    if len(message.document_ids) > MAX_DOCUMENTS_PER_OBJECT:
        raise BadRequestError(f"expected at most {MAX_DOCUMENTS_PER_OBJECT} document ids; got more")
    if not 0 <= message.compute_seconds < MAX_COMPUTE_SECONDS:
        raise BadRequestError(f"expected compute_seconds of at least 0; got {message.compute_seconds}")
    if len(message.sources) > MAX_SOURCES:
        raise BadRequestError(f"expected at most {MAX_SOURCES} sources of a context; got {len(message.sources)}")
    return ObjectMeta(
        model_fingerprint=message.model_fingerprint,
        document_ids=tuple(check_document_id(document_id) for document_id in message.document_ids),
        tokens=message.token_count,
        variant=variant_from_wire(message.variant_kind),
        form=StorageForm(level_from_wire(message.level), message.profile_digest),
        compute_seconds=message.compute_seconds,
        chunk_key=message.chunk_key,
        context_digest=message.context_digest,
        prefix_digest=message.prefix_digest,
        sources=tuple(ContextSource(source.chunk_key, source.token_count, source.inter) for source in message.sources),
        intra=message.intra,
        fingerprints=message.fingerprints,
        namespace=message.namespace or PUBLIC,
        lifetime=_lifetime_from_wire(message.lifetime) if message.HasField("lifetime") else None,
    )


def _lifetime_from_wire(message: cache_node_pb2.Lifetime) -> Lifetime:
    return Lifetime(message.ttl_seconds, message.renewed, message.until_unix_seconds)


def info_to_wire(info: ObjectInfo) -> cache_node_pb2.ObjectInfo:
    """Encode what the index knows of an object, without its document ids: there is no limit to their number."""
    return cache_node_pb2.ObjectInfo(
        object_key=info.key,
        meta=meta_to_wire(replace(info.meta, document_ids=(), fingerprints=b"", lifetime=None)),
        stored_bytes=info.stored_bytes,
        created_unix_seconds=info.created,
        last_used_unix_seconds=info.last_used,
        use_count=info.use_count,
        expires_unix_seconds=info.expires,
        pinned=info.pinned,
    )


def info_from_wire(message: cache_node_pb2.ObjectInfo) -> ObjectInfo:
    """Decode what an index knows of an object.

    Raises:
        IntegrityError: a description that cannot be.
    """
    try:
        meta = meta_from_wire(message.meta)
    except BadRequestError as error:
        raise IntegrityError(f"expected a well-formed description of an object; {error}") from None
    return ObjectInfo(
        key=message.object_key,
        meta=meta,
        stored_bytes=message.stored_bytes,
        created=message.created_unix_seconds,
        last_used=message.last_used_unix_seconds,
        use_count=message.use_count,
        expires=message.expires_unix_seconds if message.HasField("expires_unix_seconds") else None,
        pinned=message.pinned,
    )


def match_to_wire(match: ChunkMatch) -> cache_node_pb2.ChunkMatch:
    """Encode a chunk that has a fingerprint."""
    return cache_node_pb2.ChunkMatch(
        fingerprint=match.fingerprint, chunk_key=match.chunk_key, offset=match.offset, token_count=match.tokens
    )


def match_from_wire(message: cache_node_pb2.ChunkMatch) -> ChunkMatch:
    """Decode a chunk that has a fingerprint.

    Raises:
        IntegrityError: no key, or a place outside the chunk.
    """
    tokens = message.token_count
    if len(message.chunk_key) != DIGEST_BYTES or not message.offset < tokens <= MAX_CHUNK_TOKENS:
        raise IntegrityError(f"expected a match within a chunk; got offset {message.offset} of {tokens} tokens")
    return ChunkMatch(message.fingerprint, message.chunk_key, message.offset, message.token_count)


def profile_info_to_wire(info: ProfileInfo) -> cache_node_pb2.ProfileInfo:
    """Encode what the index knows of a profile."""
    return cache_node_pb2.ProfileInfo(
        profile_digest=info.digest,
        model_fingerprint=info.model_fingerprint,
        stored_bytes=info.stored_bytes,
        objects=info.objects,
        gates=info.gates,
    )


def profile_info_from_wire(message: cache_node_pb2.ProfileInfo) -> ProfileInfo:
    """Decode what an index knows of a profile."""
    return ProfileInfo(
        message.profile_digest, message.model_fingerprint, message.stored_bytes, message.objects, message.gates
    )


def receipt_from_wire(message: cache_node_pb2.ForgetChunksResponse) -> ForgetReceipt:
    """Decode what a forget did."""
    deleted = tuple(message.deleted_keys)
    return ForgetReceipt(deleted, message.deleted_bytes, message.kept_shared, message.pending)
