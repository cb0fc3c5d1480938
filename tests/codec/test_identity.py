"""Identity is a promise to every stored object: the same inputs give the same keys for ever, on every machine."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import (
    ModelFingerprint,
    Namespace,
    canonical_json,
    check_digest,
    chunk_key,
    context_digest,
    framed,
    object_key,
    variant_key,
)
from kvquilt_codec.types import Level, VariantKind

TOKENS = np.array([1, 2, 3, 50_256, 2**32 - 1], np.uint32)
NOTHING = np.array([], np.uint32)
MODEL = ModelFingerprint(
    architecture='{"class":"Tiny","layers":2}',
    rope='{"theta":10000.0}',
    data_type="bfloat16",
    weights_digest="11" * 32,
    tokenizer_digest="22" * 32,
    adapter_digest="33" * 32,
)
TENANT = Namespace("tenant", b"0123456789abcdef")


def all_digests() -> dict[str, str]:
    chunk = chunk_key(TENANT, MODEL.digest, TOKENS)
    exact = variant_key(chunk, VariantKind.EXACT, context_digest(TOKENS))
    base = variant_key(chunk, VariantKind.BASE, context_digest(NOTHING))
    return {
        "fingerprint": MODEL.digest,
        "fingerprint without tokenizer": ModelFingerprint("a", "b", "c", "d").digest,
        "chunk": chunk.hex(),
        "public chunk": chunk_key(Namespace.public(), MODEL.digest, TOKENS).hex(),
        "context": context_digest(TOKENS).hex(),
        "empty context": context_digest(NOTHING).hex(),
        "exact variant": exact.hex(),
        "base variant": base.hex(),
        "lossless object": object_key(exact, StorageForm(Level.LOSSLESS)).hex(),
        "high object": object_key(base, StorageForm(Level.HIGH)).hex(),
    }


GOLDEN = {
    "fingerprint": "ac746f7bb13f37ab58869baf3fdc51e685f57aec8e2391c64312decfedf6cf9d",
    "fingerprint without tokenizer": "a48b25c86a17e96b049f08e49f6882e5a5599948aa7b676ec8fae60a7e83e047",
    "chunk": "f6eda56f0264503f301c7fa8a0eebce1ff79296f22bcf7e0fde71aa49fb1d9f1",
    "public chunk": "720cfd76b9a47d910024ba566a5e6b50aa0c0e1a4814119799dbcd83ce9b0ba7",
    "context": "1ba7d33ac09a693d844efaa42b0b5c13c5b44021cc2b941f2cdf16eb4d4ba995",
    "empty context": "fcec39eacba5b337cb8162ec8e5844f9c83ebff454b19cd41d5dbed67d8d4ef1",
    "exact variant": "7e906fcc56c51e37f188bac987c1a9ef670c9d71efb900e158d01e0489783439",
    "base variant": "78ab9d91c5179f52c81ecb951ef4ed22af40c31a562ca37ec56a9c9111bfc87d",
    "lossless object": "f1a1796f25e083cf772fcc5ef593ff898109bf6b9f14e5947a140c582a355a85",
    "high object": "c8685c872587fc5b337160707895a6431e6a43263820aa0d1c6f6f8ce9b7296a",
}


@pytest.mark.parametrize("name", GOLDEN)
def test_digests_never_change(name: str) -> None:
    assert all_digests()[name] == GOLDEN[name], "every object stored so far would be lost"


def test_another_process_with_another_hash_seed_gives_the_same_digests() -> None:
    script = "import json; from tests.codec.test_identity import all_digests; print(json.dumps(all_digests()))"
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "4242", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    assert json.loads(printed) == GOLDEN


def test_every_field_of_the_fingerprint_counts() -> None:
    fields = ("architecture", "rope", "data_type", "weights_digest", "tokenizer_digest", "adapter_digest")
    values = {name: getattr(MODEL, name) for name in fields}
    changed = {ModelFingerprint(**{**values, name: values[name] + "x"}).digest for name in fields}
    assert len(changed | {MODEL.digest}) == len(fields) + 1


def test_text_that_moves_from_one_field_to_the_next_changes_the_fingerprint() -> None:
    assert ModelFingerprint("ab", "c", "d", "e").digest != ModelFingerprint("a", "bc", "d", "e").digest


token_lists = st.lists(st.integers(0, 2**32 - 1), max_size=20)
secrets = st.binary(min_size=16, max_size=40)


@settings(deadline=None)
@given(tokens=token_lists, one=secrets, other=secrets)
def test_namespaces_with_different_secrets_share_no_key(tokens: list[int], one: bytes, other: bytes) -> None:
    array = np.array(tokens, np.uint32)
    keys = [chunk_key(Namespace("same-name", secret), MODEL.digest, array) for secret in (one, other)]
    assert (keys[0] == keys[1]) == (one.rstrip(b"\0") == other.rstrip(b"\0")), "HMAC pads short keys with zeros"
    derived = [
        object_key(variant_key(k, VariantKind.BASE, context_digest(array)), StorageForm(Level.HIGH)) for k in keys
    ]
    assert (derived[0] == derived[1]) == (keys[0] == keys[1])


@settings(deadline=None)
@given(one=token_lists, other=token_lists)
def test_different_texts_have_different_keys(one: list[int], other: list[int]) -> None:
    arrays = [np.array(tokens, np.uint32) for tokens in (one, other)]
    same = one == other
    assert (chunk_key(TENANT, MODEL.digest, arrays[0]) == chunk_key(TENANT, MODEL.digest, arrays[1])) == same
    assert (context_digest(arrays[0]) == context_digest(arrays[1])) == same


def test_the_secret_is_not_shown() -> None:
    assert "0123456789abcdef" not in repr(TENANT)


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("", b"x" * 16),
        ("n" * 129, b"x" * 16),
        ("line\nbreak", b"x" * 16),
        ("end\n", b"x" * 16),
        ("a/b", b"x" * 16),
        (".hidden", b"x" * 16),
        ("ünï", b"x" * 16),
        ("short", b"x" * 15),
    ],
)
def test_unusable_namespaces_are_refused(name: str, secret: bytes) -> None:
    with pytest.raises(BadRequestError, match="expected a namespace"):
        Namespace(name, secret)


@settings(deadline=None, max_examples=30)
@given(name=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", fullmatch=True), master=st.binary(min_size=32))
def test_a_namespaces_secret_is_hkdf_of_the_master_secret(name: str, master: bytes) -> None:
    if name == "public":
        return
    salt, info = b"kvquilt namespaces v1", framed(b"kvquilt namespace v1", name.encode())
    assert Namespace.derived(name, master) == Namespace(name, HKDF(SHA256(), 32, salt, info).derive(master))


def test_a_master_secret_is_long_and_leaves_public_as_it_is() -> None:
    assert Namespace.derived("public", b"") == Namespace.public()
    with pytest.raises(BadRequestError, match="at least 32 bytes"):
        Namespace.derived("a", b"x" * 31)


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_digests_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(BadRequestError, match=f"32 bytes; got {length}"):
        check_digest(bytes(length), "chunk key")


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": {"d": 2.5, "c": None}}) == canonical_json({"a": {"c": None, "d": 2.5}, "b": 1})
    assert canonical_json({"b": 1, "a": 2}) == '{"a":2,"b":1}'
