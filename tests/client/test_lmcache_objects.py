"""What the LMCache adapter makes of LMCache's objects; needs no LMCache, in which `make test-lmcache` runs it."""

import math
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt.integrations.lmcache.coding import Coding
from kvquilt.integrations.lmcache.identity import TensorSpec, document_id
from kvquilt.integrations.lmcache.settings import described, parsed
from kvquilt.integrations.lmcache.tensors import MAX_OPAQUE_BYTES, Kind, plan
from kvquilt_cache_node.objects import check_container
from kvquilt_codec.errors import BadRequestError, FingerprintMismatchError, IntegrityError, NotFoundError

SIZES = {"bfloat16": 2, "float16": 2, "float32": 4, "uint8": 1, "float8_e4m3fn": 1, "int64": 8}
SECRET = "0123456789abcdef" * 4


@dataclass(frozen=True)
class Key:
    """As LMCache's `ObjectKey`."""

    chunk_hash: bytes = bytes(range(32))
    model_name: str = "a/model"
    kv_rank: int = 0x01000100
    object_group_id: int = 0
    cache_salt: str = ""


def coding(**parameters):
    return Coding(parsed(parameters), clock=lambda: 1e9)


def size_of(layout):
    return sum(SIZES[spec.data_type] * math.prod(spec.shape) for spec in layout)


def bytes_of(layout, seed, *, finite=True):
    random = np.random.default_rng(seed)
    parts = []
    for spec in layout:
        types = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16, "float32": np.float32}
        count = math.prod(spec.shape)
        if finite and spec.data_type in types:
            parts.append(random.standard_normal(count).astype(types[spec.data_type]).tobytes())
        else:
            parts.append(random.bytes(count * SIZES[spec.data_type]))
    return b"".join(parts)


small = st.integers(1, 5)
tokens = st.integers(1, 40)
keys_values = st.tuples(st.just(2), small, tokens, st.integers(1, 33))
latents = st.one_of(st.tuples(small, tokens, st.integers(2, 33)), st.tuples(st.just(1), small, tokens, small))
anything = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple)
specs = st.builds(TensorSpec, st.sampled_from(sorted(SIZES)), st.one_of(keys_values, latents, anything))


@given(st.lists(specs, min_size=1, max_size=3).map(tuple), st.integers(0, 9))
def test_any_object_comes_back_bit_by_bit_and_nodes_accept_it(layout, seed):
    raw = bytes_of(layout, seed)
    coder = coding()
    item = coder.item(Key(), layout, len(raw))
    data, meta = coder.encode(item, memoryview(raw))
    check_container(item.identity.object_key, data, meta)
    out = bytearray(len(raw))
    coder.decode(item, data, memoryview(out))
    assert bytes(out) == raw


def test_layouts_that_the_codec_knows_are_told_from_bits():
    model = parsed({}).model("a/model")
    for shape, data_type, kind in (
        ((2, 30, 256, 192), "bfloat16", Kind.KEYS_VALUES),
        ((2, 2, 256, 5120), "float16", Kind.KEYS_VALUES),
        ((61, 256, 576), "bfloat16", Kind.LATENT),
        ((1, 61, 256, 576), "float32", Kind.LATENT),
        ((2, 30, 256, 192), "float8_e4m3fn", Kind.OPAQUE),
        ((2, 1, 5000, 8), "bfloat16", Kind.OPAQUE),
        ((4096,), "bfloat16", Kind.OPAQUE),
    ):
        layout = (TensorSpec(data_type, shape),)
        assert plan(layout, size_of(layout), model).kind is kind, shape
    with pytest.raises(BadRequestError, match="floating-point keys and values"):
        plan((), MAX_OPAQUE_BYTES + 1, model)


def test_bare_bits_take_hardly_more_than_they_are():
    layout = (TensorSpec("uint8", (2, 16, 256, 128)),)
    raw = bytes_of(layout, 0)
    coder = coding()
    data, _ = coder.encode(coder.item(Key(), layout, len(raw)), memoryview(raw))
    assert len(data) < 1.03 * len(raw)


def test_every_field_of_a_key_and_what_is_said_of_the_model_tell_objects_apart():
    layout = (TensorSpec("bfloat16", (2, 3, 32, 24)),)
    other = (TensorSpec("bfloat16", (2, 3, 24, 32)),)
    key = Key()
    changed = [
        replace(key, chunk_hash=b"x"),
        replace(key, model_name="b/model"),
        replace(key, kv_rank=1),
        replace(key, object_group_id=1),
        replace(key, cache_salt="red"),
    ]
    coder = coding(namespaces={"red": "public"})
    items = [coder.item(one, layout, size_of(layout)) for one in (key, *changed)]
    items.append(coder.item(key, other, size_of(other)))
    items.append(coding(models={"a/model": {"revision": "2"}}).item(key, layout, size_of(layout)))
    assert len({item.identity.object_key for item in items}) == len(items)
    assert len({item.identity.chunk_key for item in items}) == len(items)
    high = coding(models={"a/model": {"level": "high", "head_dim": 24}}).item(key, layout, size_of(layout))
    assert high.identity.chunk_key == items[0].identity.chunk_key
    assert high.identity.object_key != items[0].identity.object_key


def test_what_is_not_the_object_is_refused_and_the_buffer_untouched():
    layout = (TensorSpec("bfloat16", (2, 3, 32, 24)),)
    raw = bytes_of(layout, 0)
    coder = coding()
    item = coder.item(Key(), layout, len(raw))
    data, _ = coder.encode(item, memoryview(raw))
    another = coder.item(replace(Key(), kv_rank=7), layout, len(raw))
    wider = (TensorSpec("bfloat16", (2, 3, 32, 26)),)
    for asked, given_data, error in (
        (another, data, IntegrityError),
        (item, data[:-1], IntegrityError),
        (item, data[:-1] + bytes([data[-1] ^ 1]), IntegrityError),
        (coder.item(Key(), wider, size_of(wider)), data, FingerprintMismatchError),
    ):
        out = bytearray(asked.plan.nbytes)
        with pytest.raises(error):
            coder.decode(asked, given_data, memoryview(out))
        assert not any(out)


def test_nan_is_refused():
    layout = (TensorSpec("float32", (2, 1, 2, 2)),)
    raw = np.array([1, 2, 3, np.nan, 5, 6, 7, 8], np.float32).tobytes()
    coder = coding()
    with pytest.raises(BadRequestError, match="NaN"):
        coder.encode(coder.item(Key(), layout, len(raw)), memoryview(raw))


def test_salts_choose_namespaces_and_others_are_refused(tmp_path):
    layout = (TensorSpec("bfloat16", (2, 1, 4, 8)),)
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    known = {"master_secret_file": str(secret), "namespace": "of-all", "namespaces": {"red": "tenant-red"}}

    def name(coder, salt):
        return coder.item(replace(Key(), cache_salt=salt), layout, size_of(layout)).identity.namespace

    coder = coding(**known)
    assert name(coder, "") == "of-all"
    assert name(coder, "red") == "tenant-red"
    with pytest.raises(BadRequestError, match="cache_salt"):
        name(coder, "green")
    deriving = coding(**known, unknown_salts="derive")
    assert name(deriving, "green").startswith("salt-")
    assert name(deriving, "green") != name(deriving, "violet")
    assert "green" not in name(deriving, "green")


def test_objects_say_what_nodes_need_to_count_and_forget_them():
    layout = (TensorSpec("bfloat16", (2, 1, 4, 8)),)
    raw = bytes_of(layout, 0)
    coder = coding(ttl=60, models={"a/model": {"seconds_per_token": 0.5}})
    _, meta = coder.encode(coder.item(Key(), layout, len(raw)), memoryview(raw))
    assert meta.document_ids == ("lmcache:a/model",)
    assert (meta.tokens, meta.compute_seconds, meta.namespace) == (4, 2.0, "public")
    assert meta.lifetime is not None
    assert meta.lifetime.until == 1e9 + 60
    assert len(document_id("x" * 2000)) < 100
    assert document_id("a\nb").isprintable()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"nodez": "x"}, "parameters of kvquilt's adapter: nodes, .*got 'nodez'"),
        ({"nodes": "nonsense"}, "valid nodes"),
        ({"nodes": []}, "valid nodes"),
        ({"namespace": "tenant"}, "master_secret_file for namespace 'tenant'"),
        ({"namespaces": {"red": "tenant"}}, "master_secret_file for namespace 'tenant'"),
        ({"unknown_salts": "derive"}, "master_secret_file"),
        ({"models": {"m": {"level": "high"}}}, "head_dim for level high of 'm'"),
        ({"models": {"m": {"level": "medium"}}}, "valid models.m.level"),
        ({"credentials": {"namespace": "tenant"}}, "no credentials.namespace"),
        ({"workers": 0}, "valid workers"),
    ],
)
def test_parameters_that_cannot_be_are_refused_with_what_to_do(parameters, message):
    with pytest.raises(BadRequestError, match=message):
        parsed(parameters)


def test_a_master_secret_that_cannot_be_read_or_is_short_is_refused(tmp_path):
    with pytest.raises(NotFoundError, match="expected to read"):
        coding(master_secret_file=str(tmp_path / "none"))
    short = tmp_path / "short"
    short.write_text("short")
    with pytest.raises(BadRequestError, match="at least 32 bytes"):
        coding(master_secret_file=str(short))


def test_help_names_every_parameter():
    text = described()
    for name in ("nodes", "master_secret_file", "unknown_salts", "revision", "head_dim", "store_bytes"):
        assert f"{name}:" in text
