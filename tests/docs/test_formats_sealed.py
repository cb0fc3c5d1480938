"""docs/formats.md gives the bytes of what is encrypted."""

import hmac
import re

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kvquilt_cache_node.store import sealed_format
from kvquilt_cache_node.store.key_store import MemoryKeys
from kvquilt_cache_node.store.sealed_format import HEADER_BYTES, NamespaceKey, SealedHeader, open_whole
from kvquilt_codec.identity import framed
from tests.cache_node.sealing import MASTER, SECRET, keyring
from tests.docs.pages import rows, section

PAGE = "formats.md"


def ascending(first: int, count: int) -> bytes:
    return bytes(range(first, first + count))


def sizes(text: str) -> list[tuple[int, int]]:
    """Offset and size of each field of a record."""
    return [(int(row[0]), int(row[1])) for row in rows(text) if len(row) == 4 and row[1].isdigit()]


def test_the_sealed_example_is_what_the_code_opens() -> None:
    text = section(PAGE, "Sealed blobs")
    (quoted,) = re.findall(r"```\n([0-9a-f\s]+)\n```", text)
    sealed = bytes.fromhex(quoted)
    header = SealedHeader.parse(sealed[:HEADER_BYTES])
    assert (header.slot, header.key_id, header.salt) == (ascending(0, 16), ascending(0x10, 16), ascending(0xC8, 32))
    key = NamespaceKey(header.slot, header.key_id, ascending(0x20, 32))
    assert open_whole(key, ascending(0x64, 32), header, sealed) == b"kvquilt"
    fields = sizes(text)
    assert [size for _, size in fields] == [len(part) // 2 for part in quoted.split()[:-1]]
    assert [at for at, _ in fields] == [sum(size for _, size in fields[:number]) for number in range(len(fields))]
    assert sum(size for _, size in fields) == HEADER_BYTES
    assert sealed_format.MAX_SIZE == 2**48
    assert f"and {sealed_format.stored_size(0)} if it is empty" in text


def test_a_record_of_the_key_store_is_as_described() -> None:
    text = section(PAGE, "Key store")
    record = MASTER.wrap("ab", ascending(1, 16), ascending(50, 32))
    assert f"Records of {len(record)} bytes" in text
    assert sum(size for _, size in sizes(text)) == len(record)
    assert record[:16] == b"KVQK\1\0\0\0" + bytes.fromhex(MASTER.ids[0])
    assert record[16:32] == ascending(1, 16)
    derived = HKDF(SHA256(), 32, record[32:64], framed(b"kvquilt wrapped key v1", b"ab")).derive(SECRET)
    cipher = AESGCM(derived)
    assert cipher.decrypt(bytes(11) + b"\1", record[64:], record[:64]) == ascending(50, 32)
    assert MASTER.ids == [hmac.digest(SECRET, b"kvquilt master key id v1", "sha256")[:8].hex()]


async def test_a_slot_is_as_described() -> None:
    store = MemoryKeys()
    key = await (await keyring(store)).sealing("team-a")
    own = MASTER.unwrap("store", await store.get("store") or b"")
    assert key.slot == hmac.digest(own, framed(b"kvquilt key slot v1", b"team-a"), "sha256")[:16]
    assert await store.names() == ["store", key.slot.hex()]
