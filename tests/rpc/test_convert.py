"""Wire messages and the codec's vocabulary: what goes out comes back, and what cannot be is refused."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.catalog import (
    MAX_ATTENTION,
    MAX_COMPUTE_SECONDS,
    MAX_DOCUMENTS_PER_OBJECT,
    MAX_SOURCES,
    ContextSource,
    ObjectInfo,
    ObjectMeta,
)
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.levels import KlBound
from kvquilt_codec.types import DataType, KVLayout, LayerShape, Level, VariantKind
from kvquilt_proto.v1 import cache_node_pb2, common_pb2
from kvquilt_rpc import convert
from tests.codec.samples import FINGERPRINT

shapes = st.builds(LayerShape, st.integers(1, 1024), st.integers(1, 4096), st.integers(1, 4096))
layouts = st.builds(KVLayout, st.sampled_from(DataType), st.lists(shapes, min_size=1, max_size=5).map(tuple))
document_ids = st.text(min_size=1, max_size=20).filter(str.isprintable)
digests = st.binary(min_size=32, max_size=32)
attention = st.floats(0, MAX_ATTENTION)
metas = st.builds(
    ObjectMeta,
    st.just(FINGERPRINT),
    st.lists(document_ids, max_size=4).map(tuple),
    st.integers(0, 2**32 - 1),
    st.sampled_from(VariantKind),
    st.sampled_from([StorageForm(Level.LOSSLESS), StorageForm(Level.HIGH), StorageForm(Level.HIGH, "0c" * 32)]),
    st.floats(0, MAX_COMPUTE_SECONDS, exclude_max=True),
    digests,
    digests,
    digests,
    st.lists(st.builds(ContextSource, digests, st.integers(1, 4096), attention), max_size=4).map(tuple),
    attention,
)
moments = st.floats(0, 1e12)
infos = st.builds(
    ObjectInfo,
    st.binary(min_size=32, max_size=32),
    metas,
    st.integers(0, 2**64 - 1),
    moments,
    moments,
    st.integers(0, 2**64 - 1),
)


@given(layouts)
def test_a_layout_comes_back(layout: KVLayout) -> None:
    wire = convert.layout_to_wire(layout).SerializeToString()
    assert convert.layout_from_wire(common_pb2.KvLayout.FromString(wire)) == layout


@given(metas)
def test_a_description_comes_back(meta: ObjectMeta) -> None:
    meta = replace(meta, tokens=17, fingerprints=b"\x05\0" + bytes(16))
    wire = convert.meta_to_wire(meta).SerializeToString()
    assert convert.meta_from_wire(cache_node_pb2.ObjectMeta.FromString(wire)) == meta


@given(infos)
def test_an_index_entry_comes_back_without_its_documents_and_fingerprints(info: ObjectInfo) -> None:
    with_fingerprints = replace(info.meta, tokens=17, fingerprints=b"\x05\0" + bytes(16))
    info = replace(info, meta=replace(info.meta, tokens=17))
    wire = convert.info_to_wire(replace(info, meta=with_fingerprints)).SerializeToString()
    expected = replace(info, meta=replace(info.meta, document_ids=()))
    assert convert.info_from_wire(cache_node_pb2.ObjectInfo.FromString(wire)) == expected


@pytest.mark.parametrize("level", list(Level))
def test_every_level_has_a_number(level: Level) -> None:
    assert convert.level_from_wire(convert.level_to_wire(level)) is level
    assert convert.level_request_from_wire(convert.level_to_wire(level), None, Level.HIGH) is level


def test_a_request_asks_for_a_level_or_a_bound_or_the_default() -> None:
    assert convert.level_request_from_wire(common_pb2.LEVEL_UNSPECIFIED, None, KlBound(0.5)) == KlBound(0.5)
    assert convert.level_request_from_wire(common_pb2.LEVEL_UNSPECIFIED, 1e-3, Level.HIGH) == KlBound(1e-3)
    with pytest.raises(BadRequestError, match="number 0"):
        convert.level_from_wire(common_pb2.LEVEL_UNSPECIFIED)
    with pytest.raises(BadRequestError, match="got both"):
        convert.level_request_from_wire(common_pb2.LEVEL_LOW, 1e-3, Level.HIGH)


@pytest.mark.parametrize("kl", [0.0, -1.0, float("nan"), float("inf"), -float("inf")])
def test_a_bound_that_cannot_be_is_refused(kl: float) -> None:
    with pytest.raises(BadRequestError, match="above 0"):
        convert.level_request_from_wire(common_pb2.LEVEL_UNSPECIFIED, kl, Level.HIGH)


@pytest.mark.parametrize("number", [5, 99, -1, 2**31 - 1])
def test_an_unknown_level_is_refused_though_there_is_a_default(number: int) -> None:
    with pytest.raises(BadRequestError, match=f"lossless.*low.*number {number}"):
        convert.level_request_from_wire(number, None, Level.HIGH)


@pytest.mark.parametrize("kind", list(VariantKind))
def test_every_variant_has_a_number(kind: VariantKind) -> None:
    assert convert.variant_from_wire(convert.variant_to_wire(kind)) is kind


@pytest.mark.parametrize("number", [0, 5, 99, -1])
def test_an_unknown_variant_is_refused(number: int) -> None:
    with pytest.raises(BadRequestError, match=f"exact.*base.*number {number}"):
        convert.variant_from_wire(number)


def test_the_wire_knows_no_more_than_we_do() -> None:
    """A value added to an enum of the protocol must be given a meaning here."""
    assert len(common_pb2.DataType.keys()) == len(DataType) + 1
    assert len(common_pb2.Level.keys()) == len(Level) + 1
    assert len(common_pb2.VariantKind.keys()) == len(VariantKind) + 1


def wire_layout(data_type: int = common_pb2.DATA_TYPE_BFLOAT16, layers: int = 1, **shape: int) -> common_pb2.KvLayout:
    one = common_pb2.LayerShape(**{"kv_heads": 2, "key_dim": 8, "value_dim": 8, **shape})
    return common_pb2.KvLayout(data_type=data_type, layers=[one] * layers)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (wire_layout(0), "a known data type; got 0"),
        (wire_layout(4), "a known data type; got 4"),
        (wire_layout(layers=0), "1..1024 layers; got 0"),
        (wire_layout(layers=1025), "at most 1024 layers; got 1025"),
        (wire_layout(kv_heads=0), "kv_heads"),
        (wire_layout(kv_heads=1025), "kv_heads"),
        (wire_layout(key_dim=0), "key_dim"),
        (wire_layout(key_dim=4097), "key_dim"),
        (wire_layout(value_dim=0), "value_dim"),
        (wire_layout(value_dim=2**32 - 1), "value_dim"),
    ],
)
def test_a_layout_that_cannot_be_is_refused(layout: common_pb2.KvLayout, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        convert.layout_from_wire(layout)


def wire_meta(change: Callable[[cache_node_pb2.ObjectMeta], object]) -> cache_node_pb2.ObjectMeta:
    digest = bytes(32)
    form = StorageForm(Level.HIGH)
    meta = ObjectMeta(FINGERPRINT, ("doc",), 5, VariantKind.BASE, form, 0.5, digest, digest, digest)
    message = convert.meta_to_wire(meta)
    change(message)
    return message


def seconds(value: float) -> cache_node_pb2.ObjectMeta:
    return wire_meta(lambda message: setattr(message, "compute_seconds", value))


def source(key: bytes = bytes(32), tokens: int = 1, inter: float = 0.5, times: int = 1) -> cache_node_pb2.ObjectMeta:
    one = cache_node_pb2.ContextSource(chunk_key=key, token_count=tokens, inter=inter)
    return wire_meta(lambda message: message.sources.extend([one] * times))


def field(name: str, value: object) -> cache_node_pb2.ObjectMeta:
    return wire_meta(lambda message: setattr(message, name, value))


def documents(*values: str) -> cache_node_pb2.ObjectMeta:
    return wire_meta(lambda message: message.document_ids.extend(values))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (seconds(-1e-9), "compute_seconds"),
        (seconds(float("nan")), "compute_seconds"),
        (seconds(float("inf")), "compute_seconds"),
        (seconds(MAX_COMPUTE_SECONDS), "compute_seconds"),
        (documents(""), "1..1024 bytes"),
        (documents("x" * 1025), "1..1024 bytes"),
        (documents("€" * 342), "1..1024 bytes"),
        (documents("two\nlines"), "printable"),
        (documents("\0"), "printable"),
        (documents(*["same"] * MAX_DOCUMENTS_PER_OBJECT), "at most 4096 document ids"),
        (field("chunk_key", b""), "chunk key of 32 bytes"),
        (field("context_digest", bytes(31)), "context digest of 32 bytes"),
        (field("prefix_digest", b""), "prefix digest of 32 bytes"),
        (field("intra", -1.0), "intra in"),
        (field("intra", float("nan")), "intra in"),
        (field("intra", 4098.0), "intra in"),
        (field("fingerprints", bytes(17)), "fingerprints of 18 bytes"),
        (field("fingerprints", b"\x05\0" + bytes(16)), "offsets below 5"),
        (source(b"short"), "chunk key of a source"),
        (source(tokens=0), "1..4096 tokens"),
        (source(tokens=4097), "1..4096 tokens"),
        (source(inter=-0.5), "inter in"),
        (source(inter=float("inf")), "inter in"),
        (source(times=MAX_SOURCES + 1), "at most 64 sources"),
        (field("namespace", "a/b"), "a namespace of"),
        (wire_meta(lambda message: message.ClearField("level")), "a level"),
        (wire_meta(lambda message: message.ClearField("variant_kind")), "a variant"),
    ],
)
def test_a_description_that_cannot_be_is_refused(meta: cache_node_pb2.ObjectMeta, message: str) -> None:
    with pytest.raises(BadRequestError, match=message):
        convert.meta_from_wire(meta)


def test_what_a_peer_says_of_its_objects_is_checked_too() -> None:
    with pytest.raises(IntegrityError, match="intra in"):
        convert.info_from_wire(cache_node_pb2.ObjectInfo(meta=field("intra", -1.0)))


@pytest.mark.parametrize(("key", "offset", "tokens"), [(b"", 0, 5), (bytes(32), 5, 5), (bytes(32), 0, 4097)])
def test_a_match_outside_a_chunk_is_refused(key: bytes, offset: int, tokens: int) -> None:
    message = cache_node_pb2.ChunkMatch(fingerprint=3, chunk_key=bytes(32), offset=4, token_count=5)
    assert convert.match_to_wire(convert.match_from_wire(message)) == message
    with pytest.raises(IntegrityError, match="within a chunk"):
        convert.match_from_wire(cache_node_pb2.ChunkMatch(chunk_key=key, offset=offset, token_count=tokens))


def test_as_many_documents_as_one_put_may_bring_are_taken() -> None:
    ids = [f"doc {number}" for number in range(MAX_DOCUMENTS_PER_OBJECT - 1)]
    assert convert.meta_from_wire(documents(*ids)).document_ids == ("doc", *ids)
