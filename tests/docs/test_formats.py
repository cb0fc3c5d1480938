"""docs/formats.md gives the bytes that the code writes."""

import hashlib
import json
import re

import ml_dtypes
import msgspec
import numpy as np
import xxhash
from safetensors.numpy import load

from kvquilt_cache_node.store import departures, stays
from kvquilt_cache_node.store import rows as rows_of_index
from kvquilt_cache_node.store.redis_records import FRAME_BYTES, MANIFEST_BYTES, MAX_FRAMES, Manifest, Names
from kvquilt_codec import catalog, container, identity
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.container.head import PREFIX, SECTION, Header
from kvquilt_codec.container.side import decode_side, encode_side
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.gate import CONTEXTS, Gate, GatePoint
from kvquilt_codec.lifetime import Lifetime
from kvquilt_codec.profile import file
from kvquilt_codec.section import codec_for_level
from kvquilt_codec.section.exponents import ExponentsRans
from kvquilt_codec.section.normal_tables import TABLES
from kvquilt_codec.types import (
    CodecId,
    DataType,
    KVChunk,
    KVLayout,
    LayerShape,
    Level,
    Part,
    SideInfo,
    TokenIds,
    VariantKind,
)
from tests.codec.profiles import make_profile
from tests.codec.samples import STORED, make_chunk, make_object
from tests.docs.pages import first_words, rows, section, words

PAGE = "formats.md"
TOKENS: TokenIds = np.array([1, 2, 3], np.uint32)
KEYS = [[1.0, -2.0], [0.5, 0.25], [0.0, 4.0]]
VALUES = [[1.0, 1.0], [-1.0, 3.0], [0.0, 0.0]]
FINGERPRINT = "ab" * 32
NO_CONTEXT = identity.context_digest(TOKENS[:0])
CHUNK_KEY = identity.chunk_key(identity.Namespace.public(), FINGERPRINT, TOKENS)


def example(level: Level) -> bytes:
    """The worked example, encoded."""
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(1, 2, 2),))
    keys, values = (np.array(rows, ml_dtypes.bfloat16).reshape(3, 1, 2) for rows in (KEYS, VALUES))
    chunk = KVChunk(layout, TOKENS, (keys,), (values,), None)
    return container.encode(chunk, level, ChunkIdentity(FINGERPRINT, CHUNK_KEY, VariantKind.BASE, NO_CONTEXT, {}))


def test_the_worked_example_is_what_the_encoder_writes() -> None:
    text = section(PAGE, "A worked example")
    data = example(Level.HIGH)
    assert f"; {len(data)} bytes" in text
    lines = re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} +)+)", text, re.MULTILINE)
    assert len(lines) > 10
    for offset, digits in lines:
        expected = bytes.fromhex(digits)
        begin = int(offset, 16)
        assert data[begin : begin + len(expected)] == expected, offset
    (header,) = re.findall(r"^\{.*?\}$", text, re.MULTILINE | re.DOTALL)
    begin = PREFIX.size
    assert header.replace("\n", "").encode() == data[begin : begin + PREFIX.unpack_from(data)[3]]


def test_the_lossless_bytes_of_the_example_are_what_the_encoder_writes() -> None:
    text = section(PAGE, "A worked example")
    (quoted,) = re.findall(r"^`((?:[0-9a-f]{2}[ |]*)+)`", text, re.MULTILINE)
    data = example(Level.LOSSLESS)
    keys = next(entry for entry in container.parse_head(data).sections if entry.part is Part.KEYS)
    assert data[keys.offset : keys.offset + keys.length] == bytes.fromhex(quoted.replace("|", ""))


def test_the_lossless_codec_reads_and_writes_the_vector_of_its_second_mode() -> None:
    text = section(PAGE, "A worked example of codec 7")
    (listed,) = re.findall(r"^words +(\[.*\])$", text, re.MULTILINE)
    words = json.loads(re.sub(r"([0-9a-f]{4})", r'"\1"', listed))
    tensor = np.array([[int(word, 16) for word in row] for row in words], np.uint16).view(ml_dtypes.bfloat16)[:, None]
    pieces = [digits for _, digits in re.findall(r"^([0-9a-f]{4})  ((?:[0-9a-f]{2} +)+)", text, re.MULTILINE)]
    payload = bytes.fromhex("".join([*pieces[:-1], "00000100" * 29, pieces[-1]]))
    assert payload == ExponentsRans().encode_coded(tensor)
    out = np.empty_like(tensor)
    ExponentsRans().decode(payload, out)
    assert out.tobytes() == tensor.tobytes()


def test_side_information_is_what_the_encoder_writes_and_reads() -> None:
    text = section(PAGE, "A worked example of codec 8")
    given = {
        name: np.array(json.loads(rows), np.float32) for name, rows in re.findall(r"^(\w+) +(\[.*\])$", text, re.M)
    }
    payload = bytes.fromhex("".join(re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} +)+)", text, re.MULTILINE)))
    layout = KVLayout(DataType.BFLOAT16, (LayerShape(1, 2, 2),))
    assert encode_side(SideInfo(**given), layout, 3) == payload
    assert f"{len(payload)} bytes" in text
    got = decode_side(payload, layout, 3, 1 << 20)
    assert got.dependence is not None
    assert got.dependence.tolist() == given["dependence"].tolist(), "powers of two are not rounded"
    assert got.inter is not None
    (last,) = re.findall(r"back as ([0-9.]+)\.", text)
    assert got.inter.tolist() == [*given["inter"][:2].tolist(), float(np.float32(last))]


def test_the_tables_of_the_lossless_codec_are_those_of_the_digest() -> None:
    (digest,) = re.findall(r"`([0-9a-f]{64})`", section(PAGE, "Section codecs"))
    assert digest == hashlib.sha256(TABLES.frequencies.astype("<u2").tobytes()).hexdigest()


def test_the_keys_of_the_example_are_what_identity_computes() -> None:
    text = section(PAGE, "Keys")
    variant = identity.variant_key(CHUNK_KEY, VariantKind.BASE, NO_CONTEXT)
    quoted = dict(re.findall(r"^(\w+ \w+) +([0-9a-f]{64})$", text, re.MULTILINE))
    assert quoted == {
        "chunk key": CHUNK_KEY.hex(),
        "context digest": NO_CONTEXT.hex(),
        "variant key": variant.hex(),
        "object key": identity.object_key(variant, StorageForm(Level.HIGH)).hex(),
    }
    assert bytes.fromhex(quoted["object key"]) == catalog.key_of(container.parse_head(example(Level.HIGH)).header)


def test_the_fields_of_header_and_index_are_the_codes() -> None:
    assert first_words(section(PAGE, "Header").split("| attribute |")[0]) == {
        field.encode_name for field in msgspec.structs.fields(Header)
    }
    places = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)`", section(PAGE, "Index, 32 bytes per section"), re.MULTILINE)
    fields = SECTION.fields
    assert fields is not None
    documented = {name: (int(offset), int(size)) for offset, size, name in places}
    assert documented == {name: (place[1], place[0].itemsize) for name, place in fields.items()}
    assert SECTION.itemsize == 32
    prefix = rows(section(PAGE, "Prefix, 28 bytes"))
    assert sum(int(row[1]) for row in prefix) == PREFIX.size == 28


def test_every_section_codec_is_specified_by_its_id() -> None:
    text = section(PAGE, "Section codecs")
    named = {int(number): name for number, name in re.findall(r"^\*\*Codec (\d+), `?([\w -]+)`?", text, re.MULTILINE)}
    codecs = {codec_for_level(level) for level in STORED}
    assert named.keys() == set(CodecId)
    assert {codec.codec_id: codec.name for codec in codecs}.items() <= named.items()


def test_the_fields_and_tensors_of_a_profile_are_the_codes() -> None:
    facts, tensors = section(PAGE, "Profile").split("| tensor |")
    assert first_words(facts) == {field.encode_name for field in msgspec.structs.fields(file._Facts)}
    written = load(file.dump(make_profile()))
    for name, array in written.items():
        documented = re.sub(r"^\d+", "l", re.sub(r"quality\.\d+(\.\d+)?", r"quality.d\1", name))
        documented = re.sub(r"quality\.d\.\d+", "quality.d.l", documented)
        assert f"`{documented}`" in tensors, name
        assert array.dtype.name in next(line for line in tensors.splitlines() if f"`{documented}`" in line)


def test_the_fields_of_a_gate_are_the_codes() -> None:
    of_gate, of_points = section(PAGE, "Gate").split("| field of a point |")
    assert first_words(of_gate) == {field.encode_name for field in msgspec.structs.fields(Gate)}
    assert first_words(of_points) == {field.encode_name for field in msgspec.structs.fields(GatePoint)}
    assert set(CONTEXTS) <= words(of_points)


def test_the_attributes_are_those_that_kvquilt_writes() -> None:
    _, _, meta = make_object(make_chunk(), lifetime=Lifetime(60.0, False, 1e9))
    assert first_words(section(PAGE, "Header").split("| attribute |")[1]) == set(catalog.to_attributes(meta))


def test_the_schema_of_the_index_is_the_codes() -> None:
    text = section(PAGE, "The file store")
    (schema,) = re.findall(r"```sql\n(.*?)```", text, re.DOTALL)
    whole = rows_of_index.SCHEMA + departures.SCHEMA + stays.SCHEMA
    assert schema.split() == whole.replace("IF NOT EXISTS ", "").split()
    assert f"`user_version` {rows_of_index.VERSION}" in text


def test_the_manifest_of_a_blob_in_redis_is_what_the_code_writes() -> None:
    text = section(PAGE, "Blobs in Redis")
    (quoted,) = re.findall(r"```\n([0-9a-f ]+)\n```", text)
    generation, digest = bytes(range(1, 9)), xxhash.xxh3_64_intdigest(b"kvquilt")
    assert bytes.fromhex(quoted) == Manifest(7, FRAME_BYTES, generation, digest, 1_700_000_000_000).encode()
    places = [(int(row[0]), int(row[1])) for row in rows(text) if len(row) == 3]
    assert [size for _, size in places] == [len(part) // 2 for part in quoted.split()]
    assert [offset for offset, _ in places] == [sum(size for _, size in places[:number]) for number in range(8)]
    assert f"the manifest, {MANIFEST_BYTES} bytes" in text
    assert f"{MAX_FRAMES:,} frames" in text
    names = Names("p")
    assert names.manifest(b"\xab" * 32) == f"p:{{{'ab' * 32}}}".encode()
    assert names.frame(b"\xab" * 32, generation, 12) == names.manifest(b"\xab" * 32) + b":0102030405060708:12"


def test_the_example_header_is_json() -> None:
    begin = PREFIX.size
    data = example(Level.HIGH)
    decoded = json.loads(data[begin : begin + PREFIX.unpack_from(data)[3]])
    assert list(decoded) == sorted(decoded), "the writer sorts the names"
