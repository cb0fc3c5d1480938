"""Chunks and containers for tests: small, seeded, with real keys."""

from collections.abc import Mapping

import ml_dtypes
import numpy as np

from kvquilt_codec import catalog, container, fingerprints, identity
from kvquilt_codec.catalog import ContextSource, ObjectMeta
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import PUBLIC
from kvquilt_codec.joint import JointCoder
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.types import Array, DataType, KVChunk, KVLayout, LayerShape, Level, Part, SideInfo, VariantKind

FINGERPRINT = identity.ModelFingerprint("TinyModel", "{}", "bfloat16", "00" * 32).digest
OTHER_FINGERPRINT = identity.ModelFingerprint("OtherModel", "{}", "bfloat16", "00" * 32).digest
NAMESPACE = identity.Namespace("tests", b"a secret of tests only")
PREFIX = identity.context_digest(np.array([1, 2], np.uint32))
CONTEXT = identity.context_digest(np.array([], np.uint32))

UNIFORM = (LayerShape(2, 8, 8),) * 3
UNEVEN = (LayerShape(1, 4, 6), LayerShape(3, 2, 2), LayerShape(2, 1, 5), LayerShape(1, 16, 1))

STORED = (Level.LOSSLESS, Level.HIGH)
"""Levels that are stored without a profile."""

BIT_TYPES = {2: np.uint16, 4: np.uint32}


def make_chunk(
    tokens: int = 5,
    shapes: tuple[LayerShape, ...] = UNIFORM,
    data_type: DataType = DataType.BFLOAT16,
    *,
    rotated_from: int | None = None,
    seed: int = 0,
) -> KVChunk:
    """A chunk of normal values with a few special ones: -0.0, the smallest denormal, the type's largest."""
    rng = np.random.default_rng(seed)
    layout = KVLayout(data_type, shapes)

    def tensor(part: Part, layer: LayerShape) -> Array:
        array = rng.standard_normal(layer.of(part, tokens)).astype(data_type.numpy)
        bits = array.reshape(-1).view(BIT_TYPES[data_type.itemsize])
        sign = 1 << (8 * data_type.itemsize - 1)
        special = [sign, 1, sign | 1]
        bits[: len(special)] = special[: bits.size]
        return array

    return KVChunk(
        layout,
        rng.integers(0, 50_000, tokens, dtype=np.uint32),
        tuple(tensor(Part.KEYS, layer) for layer in shapes),
        tuple(tensor(Part.VALUES, layer) for layer in shapes),
        rotated_from,
    )


def chunk_identity(
    chunk: KVChunk, *, fingerprint: str = FINGERPRINT, attributes: Mapping[str, str] | None = None
) -> ChunkIdentity:
    """The identity of a chunk that nothing preceded."""
    key = identity.chunk_key(NAMESPACE, fingerprint, chunk.token_ids)
    return ChunkIdentity(fingerprint, key, VariantKind.BASE, CONTEXT, attributes or {})


def make_container(
    chunk: KVChunk,
    level: Level = Level.LOSSLESS,
    *,
    fingerprint: str = FINGERPRINT,
    coder: JointCoder | None = None,
    side: SideInfo | None = None,
) -> bytes:
    """The chunk, encoded."""
    return container.encode(chunk, level, chunk_identity(chunk, fingerprint=fingerprint), coder, side)


def make_object(
    chunk: KVChunk,
    level: Level = Level.LOSSLESS,
    *documents: str,
    fingerprint: str = FINGERPRINT,
    coder: JointCoder | None = None,
    namespace: str = PUBLIC,
    lifetime: Lifetime | None = None,
) -> tuple[bytes, bytes, ObjectMeta]:
    """Key, container and description of a chunk, as a writer puts them."""
    form = StorageForm(level, "" if coder is None else coder.digest)
    own = chunk_identity(chunk, fingerprint=fingerprint).chunk_key
    found = fingerprints.pack(fingerprints.fingerprints(NAMESPACE, fingerprint, chunk.token_ids))
    sources = (ContextSource(bytes(range(32)), 40, 2.5), ContextSource(bytes(32), 4096, 0.1))
    meta = ObjectMeta(
        fingerprint,
        documents,
        chunk.tokens,
        VariantKind.BASE,
        form,
        0.25,
        own,
        CONTEXT,
        PREFIX,
        sources,
        chunk.tokens / 3,
        found,
        namespace,
        lifetime,
    )
    made = chunk_identity(chunk, fingerprint=fingerprint, attributes=catalog.to_attributes(meta))
    data = container.encode(chunk, level, made, coder)
    return catalog.key_of(container.parse_head(data).header), data, meta


def make_side(chunk: KVChunk, *, spread: float = 1.0, zeros: float = 0.1, seed: int = 0) -> SideInfo:
    """Lognormal side information of a chunk; `zeros` is the share of tokens that depend on nothing."""
    rng = np.random.default_rng(seed)
    layers = chunk.layout.layers
    tokens = chunk.tokens
    dependence = rng.lognormal(-2, spread, (len(layers), max(layer.kv_heads for layer in layers), tokens))
    dependence *= rng.random(tokens) >= zeros
    for rows, layer in zip(dependence, layers, strict=True):
        rows[layer.kv_heads :] = 0
    inter = np.minimum(rng.lognormal(-2, spread, tokens), 1) * (rng.random(tokens) >= zeros)
    return SideInfo(dependence.astype(np.float32), inter.astype(np.float32))


def bits(array: Array) -> bytes:
    """The bytes of a tensor: what bit-exact means (NaN and -0.0 included)."""
    return np.ascontiguousarray(array).tobytes()


def assert_within_half_a_step(original: Array, restored: Array, data_type: DataType) -> None:
    """Of level `high`: half of the row's scale, plus the rounding of the result to the tensor's type."""
    finfo = ml_dtypes.finfo(data_type.numpy)
    exact = original.astype(np.float64)
    got = restored.astype(np.float64)
    # The scale is the smallest bfloat16 at or above max/127: at most 2^-7 above it (more among denormals).
    step = np.abs(exact).max(axis=-1, keepdims=True) / 127 * (1 + 2.0**-7) + 2.0**-133
    rounding = np.abs(got) * float(finfo.eps) / 2 + float(finfo.smallest_subnormal)
    assert np.isfinite(got).all(), "finite KV must come back finite"
    assert (np.abs(got - exact) <= step * (0.5 + 2.0**-16) + rounding).all()
