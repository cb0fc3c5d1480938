"""Object storage that is slow, gone, broken or hostile; names and URLs that are not ours; large blobs."""

import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import obstore
import pytest

from kvquilt_cache_node.store.object_blobs import MULTIPART_BYTES, ObjectBlobs, ObjectOptions, open_object_store
from kvquilt_codec.errors import (
    BadRequestError,
    DeadlineError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
    UnavailableError,
)
from tests import servers
from tests.cache_node.remote import s3_blobs
from tests.contracts.blobs_contract import data_of

KEY = b"\x07" * 32
PATH = f"{KEY.hex()[:2]}/{KEY.hex()}.kvq"
SECRET = "s3cr3t-key"  # noqa: S105 - of no server


async def test_large_blobs_travel_in_parts_and_are_read_by_ranges(s3: servers.S3Server, tmp_path: Path) -> None:
    blobs = s3_blobs(s3, tmp_path)
    data = data_of(1, MULTIPART_BYTES + 1_000_001)
    await blobs.write(KEY, data)
    (etag,) = [one["e_tag"] async for page in obstore.list(blobs._store) for one in page]
    assert etag is not None
    assert re.search(r"-\d+\"$", etag), "the tag of a multipart upload"
    assert await blobs.read(KEY) == [data]
    places = [(0, 10), (8 << 20, (8 << 20) + 5), (len(data) - 7, len(data))]
    assert await blobs.read(KEY, places) == [data[begin:end] for begin, end in places]
    await blobs.close()


async def test_names_that_are_no_keys_are_left_alone(s3: servers.S3Server, tmp_path: Path) -> None:
    blobs = s3_blobs(s3, tmp_path)
    names = ["a", "07/short.kvq", f"08/{KEY.hex()}.kvq", f"{PATH}.tmp", f"x/{PATH}", f"07/{KEY.hex().upper()}x.kvq"]
    for name in names:
        await obstore.put_async(blobs._store, name, b"theirs")
    await blobs.write(KEY, b"ours")
    assert await blobs.sizes() == {KEY: 4}
    await blobs.delete(KEY)
    assert await blobs.sizes() == {}
    assert {one["path"] async for page in obstore.list(blobs._store) for one in page} == set(names)
    await blobs.close()


async def test_a_service_that_is_paused_or_killed_gives_errors_in_time(tmp_path: Path) -> None:
    with servers.s3(tmp_path / "server") as server:
        blobs = s3_blobs(server, tmp_path, timeout=1.0, retries=1)
        await blobs.write(KEY, b"data")
        server.process.pause()
        begin = time.monotonic()
        calls = (blobs.read(KEY), blobs.read(KEY, [(0, 1)]), blobs.write(KEY, b"x"), blobs.delete(KEY), blobs.sizes())
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {DeadlineError}
        assert time.monotonic() - begin < 8
        server.process.resume()
        assert (await blobs.read(KEY))[0] in (b"data", b"x"), "a write that was late may have been carried out"
        server.process.kill()
        calls = (blobs.read(KEY), blobs.read(KEY, [(0, 1)]), blobs.write(KEY, b"x"), blobs.delete(KEY), blobs.sizes())
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in errors} == {UnavailableError}
        await blobs.close()


async def test_refused_credentials_and_missing_buckets_are_told_without_secrets(
    s3: servers.S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for changed in ({"secret": SECRET}, {"key_id": "nobody", "secret": SECRET}):
        blobs = s3_blobs(s3, tmp_path, **changed)
        for call in (blobs.sizes(), blobs.write(KEY, b"x"), blobs.read(KEY), blobs.delete(KEY)):
            with pytest.raises(UnavailableError, match="credentials") as caught:
                await call
            assert caught.value.reason == "store_refused"
            assert SECRET not in f"{caught.value}{caplog.text}"
    known = ObjectOptions(s3.endpoint, servers.S3_KEY_ID, servers.S3_SECRET, retries=0)
    missing = ObjectBlobs(open_object_store("s3://no-such-bucket/x", known), "s3://no-such-bucket/x")
    with pytest.raises(UnavailableError, match="NoSuchBucket"):
        await missing.sizes()


@pytest.mark.parametrize(
    ("url", "changed"),
    [
        *((url, {}) for url in ("", "bucket", "http://host/x", "redis://h", "s3:/bucket", "S3://bucket", "file://")),
        *((url, {}) for url in (f"s3://key:{SECRET}@bucket/x", f"az://container/x?sig={SECRET}", "s3://")),
        ("gs://bucket/x", {"endpoint": "http://h"}),
        ("gs://bucket/x", {"secret": SECRET}),
        ("file:///folder/x", {"secret": SECRET}),
        ("s3://bucket/x", {"endpoint": "no url"}),
    ],
)
def test_urls_and_options_that_cannot_be_are_refused(url: str, changed: dict[str, str]) -> None:
    with pytest.raises(BadRequestError) as caught:
        open_object_store(url, ObjectOptions(**changed))
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(ObjectOptions(secret=SECRET))


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[ObjectBlobs]:
    """Blobs of a service that gives every request this answer and then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, servers.HOST, 0)
    endpoint = f"http://{servers.HOST}:{server.sockets[0].getsockname()[1]}"
    options = ObjectOptions(endpoint, "id", SECRET, timeout=2, retries=1)
    async with server:
        yield ObjectBlobs(open_object_store("s3://bucket/x", options), "s3://bucket/x")


def http(status: str, body: bytes = b"", length: int | None = None, *headers: str) -> bytes:
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Last-Modified: Sat, 21 Nov 2026 00:00:00 GMT", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


ANSWERS: dict[str, bytes] = {
    "503": http("503 Service Unavailable", b"slow down"),
    "500": http("500 Internal Server Error"),
    "truncated": http("200 OK", b"half of i", 1000, 'ETag: "x"'),
    "nothing": b"",
    "no HTTP": b"220 mail.example\r\n\r\n",
    "a page": http("200 OK", b"<html>log in</html>"),
    "another range": http("206 Partial Content", b"abc", None, 'ETag: "x"', "Content-Range: bytes 5-7/100"),
    "a shorter range": http("206 Partial Content", b"abc", None, 'ETag: "x"', "Content-Range: bytes 0-2/100"),
}


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
async def test_answers_that_are_wrong_are_errors_of_our_tree(answer: bytes) -> None:
    async with answering(answer) as blobs:
        calls = [lambda: blobs.read(KEY, [(0, 10)]), lambda: blobs.read(KEY, [(0, 10), (90, 99)])]
        if b" 20" not in answer[:13]:
            calls += [lambda: blobs.read(KEY), lambda: blobs.write(KEY, b"x"), lambda: blobs.delete(KEY), blobs.sizes]
        for call in calls:
            with pytest.raises(KvquiltError) as caught:
                await call()
            assert isinstance(caught.value, UnavailableError | IntegrityError | DeadlineError)
            assert SECRET not in str(caught.value)


async def test_a_whole_read_that_is_cut_off_is_no_answer() -> None:
    async with answering(ANSWERS["truncated"]) as blobs:
        with pytest.raises((UnavailableError, IntegrityError)):
            await blobs.read(KEY)
    async with answering(http("404 Not Found")) as blobs:
        with pytest.raises(NotFoundError):
            await blobs.read(KEY)
