"""docs/formats.md gives the bytes of the write queue and of copies in a hot tier."""

from pathlib import Path

import xxhash

from kvquilt_cache_node.store import envelope
from kvquilt_cache_node.store.queue_files import Entry, QueueFiles
from tests.docs.pages import rows, section

PAGE = "formats.md"
DATA = bytes(range(256)) * 300
KEY = bytes(range(32))


def fields(heading: str, data: bytes) -> list[bytes]:
    """The bytes of each row of the section's table that has an offset and a length."""
    table = [row for row in rows(section(PAGE, heading)) if row[0].isdigit() and row[1].isdigit()]
    ends = [int(offset) + int(size) for offset, size, _ in table]
    assert [int(offset) for offset, _, _ in table] == [0, *ends[:-1]]
    return [data[int(offset) : int(offset) + int(size)] for offset, size, _ in table]


def number(value: int, size: int = 8) -> bytes:
    return value.to_bytes(size, "little")


def digest(data: bytes) -> bytes:
    return number(xxhash.xxh3_64_intdigest(data))


def test_a_queued_write(tmp_path: Path) -> None:
    files = QueueFiles(tmp_path, fsync=False)
    for entry in (Entry(17, KEY, len(DATA), 0.0), Entry(18, KEY, None, 0.0)):
        files.write(entry, b"" if entry.size is None else DATA)
    files.close()
    written, deleted = sorted((tmp_path / "entries").iterdir())
    assert (written.name, deleted.name) == (f"{17:016x}-{KEY.hex()}.put", f"{18:016x}-{KEY.hex()}.del")
    content = written.read_bytes()
    expected = [b"KVQW", number(1, 4), KEY, number(len(DATA)), digest(DATA), digest(content[:56])]
    assert fields("The write queue", content) == expected
    assert (content[64:], deleted.read_bytes()) == (DATA, b"")


def test_a_copy_in_a_hot_tier() -> None:
    content = envelope.sealed(DATA, 1.5)
    digests = digest(DATA[: 64 << 10]) + digest(DATA[64 << 10 :])
    at = b"\x00\x00\x00\x00\x00\x00\xf8\x3f"
    expected = [b"KVQH", number(1, 4), at, number(len(DATA)), digest(content[:24] + digests)]
    assert fields("Copies in a hot tier", content) == expected
    assert content[32:] == digests + DATA
