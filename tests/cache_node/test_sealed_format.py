"""The sealed form: what it is, byte by byte, and that nothing but what was sealed comes out of it."""

import itertools
import struct
from collections.abc import Iterator
from unittest.mock import patch

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_cache_node.store import sealed_format
from kvquilt_cache_node.store.sealed_format import (
    HEADER_BYTES,
    MAX_SIZE,
    PAGE_BYTES,
    TAG_BYTES,
    NamespaceKey,
    SealedHeader,
    nonce,
    open_pages,
    open_whole,
    plain_size,
    seal,
    stored_size,
)
from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.identity import framed
from tests.contracts.blobs_contract import data_of

KEY = NamespaceKey(bytes(range(16)), bytes(range(16, 32)), bytes(range(32, 64)))
BLOB = bytes(range(100, 132))
SIZES = [0, 1, 1000, PAGE_BYTES - 1, PAGE_BYTES, PAGE_BYTES + 1, 3 * PAGE_BYTES, 3 * PAGE_BYTES + 77]
THREE = data_of(5, 2 * PAGE_BYTES + 1000)
SEALED = seal(KEY, BLOB, THREE)


def opened(data: bytes, key: NamespaceKey = KEY, blob: bytes = BLOB) -> bytes:
    return open_whole(key, blob, SealedHeader.parse(data[:HEADER_BYTES]), data)


def page(number: int, data: bytes = SEALED) -> bytes:
    step = PAGE_BYTES + TAG_BYTES
    return data[HEADER_BYTES + number * step :][:step]


@pytest.mark.parametrize("size", SIZES)
def test_what_is_sealed_is_opened_and_its_size_tells_the_blobs(size: int) -> None:
    data = data_of(3, size)
    sealed = seal(KEY, BLOB, data)
    assert opened(sealed) == data
    assert len(sealed) == stored_size(size)
    assert plain_size(len(sealed)) == size
    assert size < 16 or data[:16] not in sealed


@given(st.integers(-1, 5 * PAGE_BYTES))
def test_a_size_on_the_medium_is_of_one_size_or_of_none(stored: int) -> None:
    size = plain_size(stored)
    assert size == -1 or stored_size(size) == stored
    assert plain_size(stored_size(abs(stored))) == abs(stored)


def test_the_known_answer() -> None:
    """Made from the description in docs/formats.md with nothing but AES-GCM and HKDF."""
    salt, data = bytes(range(200, 232)), data_of(9, PAGE_BYTES + 5)
    head = b"KVQSEAL\0" + struct.pack("<HHIQ", 1, 0, 65536, len(data)) + KEY.slot + KEY.key_id + salt
    info = framed(b"kvquilt sealed v1", head, BLOB)
    cipher = AESGCM(HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(KEY.secret))
    pages = [
        cipher.encrypt(bytes(7) + bytes([0, 0, 0, 0]) + b"\0", data[:65536], head + BLOB),
        cipher.encrypt(bytes(7) + bytes([0, 0, 0, 1]) + b"\1", data[65536:], head + BLOB),
    ]
    with patch.object(sealed_format.secrets, "token_bytes", lambda count: salt[:count]):
        assert seal(KEY, BLOB, data) == head + b"".join(pages)
        short = seal(KEY, BLOB, b"kvquilt")
    assert short[HEADER_BYTES:].hex() == "8457946937908418db74594e1962c19a068865c3805ac7"


@given(st.integers(0, len(SEALED) * 8 - 1))
def test_any_flipped_bit_is_refused(bit: int) -> None:
    damaged = bytearray(SEALED)
    damaged[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        opened(bytes(damaged))


@given(st.integers(0, len(SEALED) - 1))
def test_any_truncation_is_refused(length: int) -> None:
    with pytest.raises(IntegrityError):
        opened(SEALED[:length])


def test_a_truncation_whose_header_is_made_to_agree_is_refused() -> None:
    for size in (0, PAGE_BYTES, 2 * PAGE_BYTES):
        head = SEALED[:16] + struct.pack("<Q", size) + SEALED[24:HEADER_BYTES]
        with pytest.raises(IntegrityError, match="as it was sealed"):
            opened(head + SEALED[HEADER_BYTES : stored_size(size)])


@pytest.mark.parametrize("order", [p for p in itertools.product(range(2), repeat=2) if p != (0, 1)])
def test_pages_in_another_place_are_refused(order: tuple[int, int]) -> None:
    moved = SEALED[:HEADER_BYTES] + page(order[0]) + page(order[1]) + page(2)
    with pytest.raises(IntegrityError, match="as it was sealed"):
        opened(moved)


def test_pages_of_another_write_of_the_same_blob_are_refused() -> None:
    other = seal(KEY, BLOB, THREE)
    with pytest.raises(IntegrityError, match="as it was sealed"):
        opened(SEALED[:HEADER_BYTES] + page(0) + page(1, other) + page(2))


def test_a_blob_in_place_of_another_is_refused_and_so_is_another_namespaces() -> None:
    with pytest.raises(IntegrityError, match="as it was sealed"):
        opened(SEALED, blob=bytes(32))
    for other in (
        NamespaceKey(KEY.slot, KEY.key_id, bytes(32)),
        NamespaceKey(bytes(16), bytes(16), KEY.secret),
    ):
        sealed = seal(other, BLOB, THREE)
        with pytest.raises(IntegrityError, match="as it was sealed"):
            opened(SEALED[:HEADER_BYTES] + sealed[HEADER_BYTES:])


@given(st.integers(0, 2), st.integers(0, len(SEALED)), st.integers(1, 4))
def test_of_bytes_that_come_the_complete_pages_are_known(page: int, nbytes: int, limit: int) -> None:
    header = SealedHeader.parse(SEALED[:HEADER_BYTES])
    run = header.complete(page, nbytes, limit)
    ends = [header.sealed((page, end))[1] - header.sealed((page, page))[0] for end in range(page + 1, 4)]
    expected = min(sum(end <= nbytes for end in ends), limit)
    assert run == ((page, page + expected) if expected else None)


@given(st.lists(st.tuples(*[st.integers(0, len(THREE))] * 2).map(sorted).map(tuple), max_size=4))
def test_a_read_opens_the_pages_that_hold_its_ranges_and_no_others(ranges: list[tuple[int, int]]) -> None:
    header = SealedHeader.parse(SEALED[:HEADER_BYTES])
    runs = header.pages(ranges)
    touched = {number for run in runs for number in range(*run)}
    assert touched == {number for begin, end in ranges if begin < end for number in pages_of(begin, end)}
    for run in runs:
        begin, end = header.plain(run)
        at, after = header.sealed(run)
        assert open_pages(KEY, BLOB, header, run, SEALED[at:after]) == THREE[begin:end]


def pages_of(begin: int, end: int) -> Iterator[int]:
    return (number for number in range(3) if begin < (number + 1) * PAGE_BYTES and end > number * PAGE_BYTES)


def test_no_nonce_is_used_twice_under_a_key() -> None:
    used: list[tuple[bytes, bytes]] = []

    class Counting:
        def __init__(self, key: bytes) -> None:
            self._key, self._cipher = key, AESGCM(key)

        def encrypt_into(self, nonce: bytes, *rest: object) -> int:
            used.append((self._key, nonce))
            return self._cipher.encrypt_into(nonce, *rest)

    with patch.object(sealed_format, "AESGCM", Counting):
        for _ in range(50):
            seal(KEY, BLOB, THREE)
    assert len(used) == 150
    assert len(set(used)) == 150
    assert len({key for key, _ in used}) == 50, "a key for each write"
    numbers = [0, 1, 255, 256, 2**16, 2**31, 2**32 - 1]
    assert len({nonce(number, last) for number in numbers for last in (False, True)}) == 2 * len(numbers)


@pytest.mark.parametrize(
    ("at", "value", "said"),
    [
        (0, b"KVQUILT\0", "not: it was stored without encryption"),
        (0, bytes(8), "not: it was stored without encryption"),
        (8, struct.pack("<H", 2), "got version 2"),
        (10, struct.pack("<H", 1), "reserved 1"),
        (12, struct.pack("<I", 0), "got version 1, reserved 0, pages of 0$"),
        (12, struct.pack("<I", 2**32 - 1), "pages of 4294967295$"),
        (16, struct.pack("<Q", MAX_SIZE + 1), "at most"),
        (16, struct.pack("<Q", 2**64 - 1), "at most"),
        (16, struct.pack("<Q", MAX_SIZE), "as its header says"),
        (16, struct.pack("<Q", 0), "as its header says"),
    ],
)
def test_a_header_that_lies_is_refused_before_anything_is_made_for_it(at: int, value: bytes, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        opened(SEALED[:at] + value + SEALED[at + len(value) :])


def test_what_cannot_be_sealed_is_refused() -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_SIZE + 1

    with pytest.raises(BadRequestError, match="to seal"):
        seal(KEY, BLOB, Huge())
