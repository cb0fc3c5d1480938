"""Ways to read a container: whole, by layer range, in pieces of any size, by another model, by an older kvquilt."""

import base64
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec import catalog, container
from kvquilt_codec.catalog import ObjectMeta
from kvquilt_codec.container import ChunkIdentity, ContainerDecoder, DecodedChunk
from kvquilt_codec.container.encoder import MAX_ATTRIBUTE_BYTES
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.section import codec_by_id, codec_for_level
from kvquilt_codec.types import Level, VariantKind
from tests.codec.samples import (
    CONTEXT,
    FINGERPRINT,
    OTHER_FINGERPRINT,
    STORED,
    UNEVEN,
    bits,
    chunk_identity,
    make_chunk,
    make_container,
    make_object,
)

CHUNK = make_chunk(300, UNEVEN)
CONTAINERS = {level: make_container(CHUNK, level) for level in STORED}
WHOLE = {level: container.decode(data, FINGERPRINT) for level, data in CONTAINERS.items()}
ALL_RANGES = [range(begin, end) for begin in range(4) for end in range(begin + 1, 5)]

levels = pytest.mark.parametrize("level", STORED, ids=lambda level: level.value)


def assert_same_layers(got: DecodedChunk, level: Level) -> None:
    whole = WHOLE[level]
    assert len(got.kv) == len(got.layers)
    assert bits(got.token_ids) == bits(whole.token_ids)
    for layer, kv in zip(got.layers, got.kv, strict=True):
        assert bits(kv.keys) == bits(whole.kv[layer].keys)
        assert bits(kv.values) == bits(whole.kv[layer].values)


@levels
@pytest.mark.parametrize("layers", ALL_RANGES, ids=str)
def test_a_layer_range_read_by_its_byte_ranges_equals_the_whole(level: Level, layers: range) -> None:
    data = CONTAINERS[level]
    head = container.parse_head(data)
    decoder = ContainerDecoder(FINGERPRINT, layers)
    decoder.feed(data[: head.head_bytes])
    ranges = head.byte_ranges(layers)
    for begin, end in ranges:
        decoder.feed(data[begin:end])
    assert_same_layers(decoder.finish(), level)
    assert_same_layers(container.decode(data, FINGERPRINT, layers), level)
    assert all(one[1] < other[0] for one, other in itertools.pairwise(ranges)), "adjacent ones merge"
    assert sum(end - begin for begin, end in ranges) == sum(s.length for s in head.select(layers))


@levels
def test_one_layer_takes_a_fraction_of_the_bytes(level: Level) -> None:
    head = container.parse_head(CONTAINERS[level])
    per_layer = [sum(end - begin for begin, end in head.byte_ranges(range(i, i + 1))) for i in range(4)]
    tokens = head.sections[0].length
    assert sum(per_layer) - 3 * tokens == head.total_bytes - head.head_bytes


@pytest.mark.parametrize("layers", [range(0), range(2, 2), range(3, 5), range(-1, 2), range(0, 4, 2), range(4, 5)])
def test_layers_outside_the_model_are_refused(layers: range) -> None:
    with pytest.raises(BadRequestError, match=r"layers within 0\.\.4"):
        container.decode(CONTAINERS[Level.HIGH], FINGERPRINT, layers)


def test_a_part_of_the_layers_is_no_chunk() -> None:
    with pytest.raises(BadRequestError, match="of 4 layers; got 2"):
        container.decode(CONTAINERS[Level.HIGH], FINGERPRINT, range(1, 3)).chunk()


@settings(deadline=None, max_examples=60)
@given(data=st.data(), level=st.sampled_from(STORED))
def test_pieces_of_any_size_give_the_same_tensors(data: st.DataObject, level: Level) -> None:
    whole = CONTAINERS[level]
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=30).map(sorted))
    decoder = ContainerDecoder(FINGERPRINT)
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        decoder.feed(memoryview(whole)[begin:end])
    assert_same_layers(decoder.finish(), level)


def test_single_bytes_give_the_same_tensors() -> None:
    decoder = ContainerDecoder(FINGERPRINT)
    assert decoder.head is None
    for value in CONTAINERS[Level.HIGH]:
        decoder.feed(bytes([value]))
    assert decoder.head == container.parse_head(CONTAINERS[Level.HIGH])
    assert_same_layers(decoder.finish(), Level.HIGH)


@levels
@pytest.mark.parametrize("missing", [1, 100])
def test_a_stream_that_ends_early_is_truncated(level: Level, missing: int) -> None:
    decoder = ContainerDecoder(FINGERPRINT)
    decoder.feed(CONTAINERS[level][:-missing])
    with pytest.raises(IntegrityError, match="truncated"):
        decoder.finish()


def test_nothing_at_all_is_truncated() -> None:
    with pytest.raises(IntegrityError, match="truncated"):
        ContainerDecoder(FINGERPRINT).finish()


def test_bytes_after_the_last_section_are_refused() -> None:
    decoder = ContainerDecoder(FINGERPRINT)
    with pytest.raises(IntegrityError, match="after the last section"):
        decoder.feed(CONTAINERS[Level.HIGH] + b"\0")


@levels
def test_another_models_kv_is_refused_before_any_tensor_is_decoded(level: Level) -> None:
    with pytest.raises(FingerprintMismatchError, match=OTHER_FINGERPRINT[:16]):
        container.decode(CONTAINERS[level], OTHER_FINGERPRINT)
    decoder = ContainerDecoder(OTHER_FINGERPRINT)
    with pytest.raises(FingerprintMismatchError):
        decoder.feed(CONTAINERS[level][: container.parse_head(CONTAINERS[level]).head_bytes])


def test_inspection_needs_no_fingerprint() -> None:
    assert_same_layers(container.decode(CONTAINERS[Level.HIGH], None), Level.HIGH)


def test_every_level_has_a_codec_that_its_id_finds() -> None:
    for level in STORED:
        assert codec_by_id(codec_for_level(level).codec_id) is codec_for_level(level)
    assert {level.value: codec_for_level(level).codec_id for level in STORED} == {"lossless": 7, "high": 2}, (
        "an id names a format for ever"
    )


@pytest.mark.parametrize("codec_id", [0, 1, 3, 16, 65535])
def test_an_unknown_codec_has_a_reason_of_its_own(codec_id: int) -> None:
    with pytest.raises(IntegrityError, match=str(codec_id)) as caught:
        codec_by_id(codec_id)
    assert caught.value.reason == "unknown_codec"


@pytest.mark.parametrize(
    "wrong",
    [
        {"model_fingerprint": "ab"},
        {"model_fingerprint": "AB" * 32},
        {"model_fingerprint": "ab" * 32 + "\n"},
        {"chunk_key": b"short"},
        {"context_digest": bytes(33)},
    ],
    ids=str,
)
def test_an_identity_that_no_reader_would_accept_is_refused_at_once(wrong: dict[str, object]) -> None:
    fields = {"model_fingerprint": FINGERPRINT, "chunk_key": bytes(32), "context_digest": CONTEXT}
    with pytest.raises(BadRequestError, match="expected a"):
        ChunkIdentity(**{**fields, "variant": VariantKind.BASE, **wrong})  # type: ignore[arg-type]


def test_attributes_beyond_their_limit_are_refused() -> None:
    chunk = make_chunk()
    fits = {"a": "x" * (MAX_ATTRIBUTE_BYTES - 1)}
    assert container.encode(chunk, Level.HIGH, chunk_identity(chunk, attributes=fits))
    with pytest.raises(BadRequestError, match="attributes"):
        container.encode(chunk, Level.HIGH, chunk_identity(chunk, attributes={"a": fits["a"] + "x"}))


def test_the_header_gives_back_key_and_description() -> None:
    key, data, meta = make_object(make_chunk(), Level.HIGH, "doc one", 'doc "two"', namespace="team-a")
    header = container.verify(data).header
    assert catalog.key_of(header) == key
    assert catalog.from_header(header) == meta


def test_missing_attributes_take_neutral_values() -> None:
    prefix = bytes(range(32))
    identity = chunk_identity(CHUNK, attributes={"prefix_digest": prefix.hex()})
    header = container.parse_head(container.encode(CHUNK, Level.LOSSLESS, identity)).header
    expected = ObjectMeta(
        FINGERPRINT,
        (),
        300,
        VariantKind.BASE,
        LOSSLESS,
        0.0,
        identity.chunk_key,
        CONTEXT,
        prefix,
        (),
        0.0,
        b"",
        "public",
    )
    assert catalog.from_header(header) == expected


@pytest.mark.parametrize(
    "attributes",
    [
        {"document_ids": "no json"},
        {"document_ids": '{"a": 1}'},
        {"document_ids": "[1]"},
        {"document_ids": '[""]'},
        {"document_ids": '["line\\nbreak"]'},
        {"document_ids": "[" + ",".join(f'"{i}"' for i in range(4097)) + "]"},
        {"compute_seconds": "soon"},
        {"compute_seconds": "nan"},
        {"compute_seconds": "inf"},
        {"compute_seconds": "-1"},
        {"prefix_digest": ""},
        {"prefix_digest": "00" * 31},
        {"prefix_digest": "no hex"},
        {"sources": '[["00", 1, 0.5]]'},
        {"sources": f'[["{"00" * 32}", 0, 0.5]]'},
        {"sources": f'[["{"00" * 32}", 4097, 0.5]]'},
        {"sources": f'[["{"00" * 32}", 1, -0.5]]'},
        {"sources": f'[["{"00" * 32}", 1, null]]'},
        {"sources": "[" + ",".join([f'["{"00" * 32}", 1, 0.5]'] * 65) + "]"},
        {"sources": "{}"},
        {"intra": "-1"},
        {"intra": "nan"},
        {"intra": "1e9"},
        {"fingerprints": "not base85:"},
        {"fingerprints": "00000"},
        {"fingerprints": base64.b85encode(b"\xff\xff" + bytes(16)).decode()},
        {"namespace": ""},
        {"namespace": "a/b"},
    ],
    ids=lambda attributes: str(attributes)[:40],
)
def test_attributes_that_an_index_could_not_hold_are_refused(attributes: dict[str, str]) -> None:
    chunk = make_chunk()
    given = {"prefix_digest": "00" * 32, **attributes}
    data = container.encode(chunk, Level.HIGH, chunk_identity(chunk, attributes=given))
    with pytest.raises(IntegrityError, match="in the header"):
        catalog.from_header(container.verify(data).header)


def test_decoded_tensors_belong_to_the_caller() -> None:
    first = container.decode(CONTAINERS[Level.LOSSLESS], FINGERPRINT)
    first.kv[0].keys[...] = 0
    second = container.decode(CONTAINERS[Level.LOSSLESS], FINGERPRINT)
    assert np.any(second.kv[0].keys != 0)
