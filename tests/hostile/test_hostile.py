"""Every hostile file gets the error that the table in `make.py` gives, from every reader, within bounded memory."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import xxhash

from kvquilt_codec import container, errors
from kvquilt_codec.container import ContainerDecoder
from kvquilt_codec.container.head import MAX_DECODED_BYTES_ANYWAY
from kvquilt_codec.types import Level
from tests.codec.samples import bits
from tests.hostile import golden, make
from tests.hostile.draft import Draft, Section, zstd_frame

NAMES = sorted(make.EXPECTED)
GENEROUS = {"header-shape-within-allowance"}
"""Files that claim shapes just under what any container may claim: these may cost up to that."""
MEMORY = 4 << 20


def read_whole(data: bytes) -> object:
    return container.decode(data, golden.FINGERPRINT)


def read_stream(data: bytes) -> object:
    decoder = ContainerDecoder(golden.FINGERPRINT)
    for begin in range(0, len(data), 37):
        decoder.feed(data[begin : begin + 37])
    return decoder.finish()


def hostile(name: str) -> bytes:
    return (golden.FOLDER / f"{name}.kvq").read_bytes()


readers = pytest.mark.parametrize("read", [read_whole, read_stream], ids=["whole", "stream"])


@readers
@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_file_gets_its_error_and_nothing_else(name: str, read: Callable[[bytes], object]) -> None:
    expected, reason = make.EXPECTED[name]
    with pytest.raises(errors.KvquiltError) as caught:
        read(hostile(name))
    assert type(caught.value).__name__ == expected
    assert str(caught.value).startswith("expected "), "a message says what was expected"
    if read is read_whole:
        assert caught.value.reason == reason


@pytest.mark.parametrize("name", NAMES)
def test_verifying_a_hostile_file_raises_nothing_but_integrity_errors(name: str) -> None:
    """Verifying looks at sizes, sections and checksums: what lies within a section is found when it is decoded."""
    try:
        head = container.verify(hostile(name))
    except errors.IntegrityError:
        return
    inside = ("exponents-", "side-", "tokens-", "int8-", "other-model", "section-codec", "section-empty", "header-")
    assert name.startswith(inside)
    assert head.total_bytes == len(hostile(name))


@readers
@pytest.mark.parametrize("name", NAMES)
def test_refusing_a_hostile_file_takes_little_memory(name: str, read: Callable[[bytes], object]) -> None:
    data = hostile(name)
    tracemalloc.start()
    try:
        with pytest.raises(errors.KvquiltError):
            read(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY + (MAX_DECODED_BYTES_ANYWAY if name in GENEROUS else 0)


_UNDER_A_LIMIT = """
import resource, sys
from pathlib import Path
from kvquilt_codec.container import decode
from kvquilt_codec.errors import KvquiltError
pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (pages + int(sys.argv[1]),) * 2)
refused = 0
for path in sorted(Path(sys.argv[2]).glob("*.kvq")):
    if not path.stem.startswith("valid-"):
        try:
            decode(path.read_bytes(), "5e" * 32)
        except KvquiltError:
            refused += 1
print(refused)
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
def test_all_hostile_files_are_refused_under_a_limit_of_the_address_space() -> None:
    """Counts what the zstd library allocates too, which tracemalloc cannot see."""
    limit = MAX_DECODED_BYTES_ANYWAY + (64 << 20)
    ended = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT, str(limit), str(golden.FOLDER)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) == len(NAMES)


def test_a_stream_is_given_memory_for_what_came_not_for_what_its_head_promises() -> None:
    """Shapes of 128 GiB, sections of 4 GiB in the index, and of them only the first few bytes."""
    draft = make.HIGH_DRAFT.copy()
    token_ids = bytes(4 * 4096)
    draft.header.update(tokens=4096, layers=[[1024, 4096, 4096]] * 2)
    draft.header["tokens_digest"] = xxhash.xxh3_128_hexdigest(token_ids)
    rest = [
        Section(block, 0, part, 2, layer, 0, b"", length=2**32 - 1)
        for block in range(16)
        for layer in range(2)
        for part in (2, 3)
    ]
    rest[0].length, rest[0].payload = None, b"a few bytes"
    draft.sections = [Section(0, 0, 0, 16, 0, 0, zstd_frame(token_ids, len(token_ids))), *rest]
    decoder = ContainerDecoder(golden.FINGERPRINT)
    tracemalloc.start()
    try:
        with pytest.raises(errors.IntegrityError, match="shapes"):
            decoder.feed(draft.build())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


@pytest.mark.parametrize("name", sorted(make.CASES))
def test_the_committed_file_is_what_the_generator_writes(name: str) -> None:
    assert hostile(name) == make.CASES[name](), "run `python -m tests.hostile.make` and look at the difference"


def test_every_file_in_the_folder_is_in_the_table_and_together_they_are_small() -> None:
    files = list(golden.FOLDER.glob("*.kvq"))
    assert {path.stem for path in files} == {*make.EXPECTED, *golden.VALID}
    assert sum(path.stat().st_size for path in files) < 300 << 10


@pytest.mark.parametrize("name", golden.VALID)
def test_todays_encoder_still_writes_the_first_containers_to_the_byte(name: str) -> None:
    chunk, level, side = golden.VALID[name]
    assert golden.golden_container(chunk(), level, side) == hostile(name), "a stored format keeps its meaning for ever"


def test_the_first_containers_have_both_modes_of_the_lossless_codec_and_an_escape() -> None:
    payloads = [s.payload for name in ("valid-v1", "valid-v1-coded") for s in Draft.parse(hostile(name)).sections[1:]]
    assert {payload[0] for payload in payloads} == {0, 1}
    assert make.CODED_DRAFT.sections[1].payload[:5] == b"\1\1\0\0\0"


@readers
@pytest.mark.parametrize("name", golden.VALID)
def test_the_first_containers_are_still_read(name: str, read: Callable[[bytes], object]) -> None:
    decoded = read(hostile(name))
    assert isinstance(decoded, container.DecodedChunk)
    chunk, level, side = golden.VALID[name]
    expected = chunk()
    assert (decoded.side is None) == (side is None)
    if side is not None:
        assert decoded.side.dependence.tolist() == side.dependence.tolist()
        assert decoded.side.inter.tolist() == side.inter.tolist()
    assert decoded.token_ids.tolist() == expected.token_ids.tolist()
    assert decoded.head.header.rotated_from is None
    assert decoded.head.header.attributes == {"document_ids": '["doc"]'}
    assert decoded.head.layout == expected.layout
    if level is Level.LOSSLESS:
        assert [bits(layer.keys) for layer in decoded.kv] == [bits(keys) for keys in expected.keys]
        assert [bits(layer.values) for layer in decoded.kv] == [bits(values) for values in expected.values]
    else:
        row = [float(value) for value in decoded.kv[1].values[2, 1]]
        assert row == [-5088.0, 0.0, -40.5]


@pytest.mark.parametrize("name", golden.VALID)
def test_the_draft_builds_the_first_containers_from_their_parts(name: str) -> None:
    """The generator's own idea of the format, written without the encoder, is the encoder's."""
    assert Draft.parse(hostile(name)).build() == hostile(name)
