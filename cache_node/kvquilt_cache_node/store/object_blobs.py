"""Blobs in object storage: S3 and what speaks it, Google Cloud Storage, Azure, or a folder."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, PreconditionError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, from_url

from kvquilt_cache_node.store.closing import Open
from kvquilt_cache_node.store.ranges import check_ranges, cut, merged
from kvquilt_cache_node.store.whole import InOnePiece
from kvquilt_cache_node.types import ByteRange
from kvquilt_codec.errors import (
    BadRequestError,
    CapacityError,
    DeadlineError,
    IntegrityError,
    KvquiltError,
    NotFoundError,
    UnavailableError,
)
from kvquilt_codec.identity import DIGEST_BYTES, check_digest

SCHEMES = ("s3", "gs", "az", "file")
"""Of URLs: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX`, `az://CONTAINER/PREFIX`, `file:///FOLDER`."""

MULTIPART_BYTES = 16 << 20
"""Larger blobs are sent in parts."""

_OPTIONS = {
    "s3": ("access_key_id", "secret_access_key"),
    "gs": ("", "service_account_key"),
    "az": ("account_name", "account_key"),
}
"""What obstore calls an identity and a secret."""

_PART_BYTES = 8 << 20
_AT_ONCE = 4
_GAP = 1 << 20
"""Ranges this near to each other are read as one: the bytes between cost less than a request."""

_TRIES = 5
"""Of a read that finds the blob replaced meanwhile."""

_SUFFIX = ".kvq"
_ERRORS = (BaseError, OSError, ValueError)
_CREDENTIALS = re.compile(r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|403 Forbidden|401 Unauthorized")
_LATE = re.compile(r"TimedOut|kind: Timeout|operation timed out|deadline has elapsed")


@dataclass(frozen=True, slots=True)
class ObjectOptions:
    """What a URL does not say. What is not given comes from the environment (`AWS_...`, `GOOGLE_...`, `AZURE_...`).

    Attributes:
        endpoint: URL of an S3 service other than Amazon's; plain HTTP is spoken if it says so.
        key_id: access key (S3) or account (Azure).
        secret: secret key (S3), account key (Azure) or service account in JSON (Google).
        timeout: seconds that one request may take; all tries together take at most `retries + 1` times as long.
        retries: how often a request that failed is sent again.
    """

    endpoint: str | None = None
    key_id: str | None = None
    secret: str | None = field(default=None, repr=False)
    timeout: float = 30.0
    retries: int = 3


def open_object_store(url: str, options: ObjectOptions) -> ObjectStore:
    """A store of obstore; see `SCHEMES`. Nothing is sent yet.

    Raises:
        BadRequestError: a URL or options that cannot be. The message quotes no credentials.
        UnavailableError: a folder that cannot be made.
    """
    scheme = url.partition("://")[0]
    if scheme not in SCHEMES or "://" not in url:
        raise BadRequestError(
            f"expected a URL that begins with one of {', '.join(SCHEMES)} and ://; got {scheme[:20]!r}"
        )
    if "@" in url or "?" in url:
        raise BadRequestError("expected a URL without credentials and options; they have settings of their own")
    if not re.fullmatch(r"file:///.+|(s3|gs|az)://[^/]+(/.*)?", url, re.DOTALL):
        raise BadRequestError(f"expected a bucket, or a folder's absolute path, in node.object_url; got {url[:80]!r}")
    if options.endpoint is not None and not re.match("https?://.", options.endpoint):
        raise BadRequestError(f"expected node.object_endpoint with http:// or https://; got {options.endpoint[:80]!r}")
    if scheme == "file":
        if options.endpoint or options.key_id or options.secret:
            raise BadRequestError("expected no endpoint and no credentials for a file:// URL; got some")
        return _local(url)
    if options.endpoint is not None and scheme != "s3":
        raise BadRequestError(f"expected an endpoint with s3:// only; got one with {scheme}://")
    names = _OPTIONS[scheme]
    config = {
        name: value for name, value in zip(names, (options.key_id, options.secret), strict=True) if value and name
    }
    if options.endpoint is not None:
        config["endpoint"] = options.endpoint
    every = timedelta(seconds=options.timeout)
    http = {"timeout": every, "connect_timeout": every, "allow_http": (options.endpoint or "").startswith("http://")}
    retry = {"max_retries": options.retries, "retry_timeout": every * (options.retries + 1)}
    opened: Any = from_url  # its overloads tell one service's options from another's
    try:
        store: ObjectStore = opened(url, config=config, client_options=http, retry_config=retry)
    except _ERRORS as error:
        raise BadRequestError(f"expected a bucket and options that can be used; got {_said(error)}") from None
    return store


def _local(url: str) -> ObjectStore:
    try:
        return LocalStore.from_url(url, mkdir=True)
    except _ERRORS as error:
        raise UnavailableError(f"expected a folder that can be written; got {_said(error)}") from None


class ObjectBlobs(InOnePiece):
    """See `Blobs`. Layout: `PREFIX/ab/abcd....kvq`. Any number of nodes may share one prefix.

    A put is atomic by the service's own promise. A read of several ranges holds the service to the version of the first
    (If-Match), so that it never mixes two writes.

    Args:
        store: see `open_object_store`.
        where: the place for messages, without credentials.
    """

    name = "object"
    durable = True

    def __init__(self, store: ObjectStore, where: str) -> None:
        self._store = store
        self._where = where
        self._open = Open("object")

    async def write(self, key: bytes, data: bytes) -> None:
        """See `Blobs.write`. A multipart upload that is cut off leaves no blob, but parts for the service to expire."""
        path = self._path(key)
        try:
            await obstore.put_async(
                self._store,
                path,
                bytes(data),
                use_multipart=len(data) > MULTIPART_BYTES,
                chunk_size=_PART_BYTES,
                max_concurrency=_AT_ONCE,
            )
        except _ERRORS as error:
            raise self._translated(error) from None

    async def read(self, key: bytes, ranges: Sequence[ByteRange] | None = None) -> list[bytes]:
        """See `Blobs.read`."""
        path = self._path(key)
        for _ in range(_TRIES):
            try:
                if ranges is None:
                    return [await self._get(path)]
                return await self._get_ranges(path, ranges)
            except FileNotFoundError:
                raise NotFoundError(f"expected object {key.hex()[:16]}... in {self._where}; it is not there") from None
            except PreconditionError:
                continue  # replaced between two ranges
            except _ERRORS as error:
                raise self._translated(error) from None
        raise UnavailableError(f"expected object {key.hex()[:16]}... to stay for a read; it is replaced all the time")

    async def delete(self, key: bytes) -> None:
        """See `Blobs.delete`."""
        path = self._path(key)
        try:
            await obstore.delete_async(self._store, path)
        except FileNotFoundError:
            pass
        except _ERRORS as error:
            raise self._translated(error) from None

    async def sizes(self) -> dict[bytes, int]:
        """See `Blobs.sizes`. Objects with names that are no keys are left alone and not listed."""
        self._open.check()
        found = []
        try:
            async for page in obstore.list(self._store):
                self._open.check()
                found += [(one["last_modified"], key, one["size"]) for one in page if (key := _key(one["path"]))]
        except _ERRORS as error:
            raise self._translated(error) from None
        return {key: size for _, key, size in sorted(found)}

    async def close(self) -> None:
        """See `Blobs.close`."""
        self._open.close()

    def _path(self, key: bytes) -> str:
        self._open.check()
        name = check_digest(key, "key").hex()
        return f"{name[:2]}/{name}{_SUFFIX}"

    async def _get(self, path: str) -> bytes:
        result = await obstore.get_async(self._store, path)
        data = bytes(await result.bytes_async())
        if len(data) != result.meta["size"]:
            raise IntegrityError(f"expected {result.meta['size']} bytes of {path}; {self._where} gave {len(data)}")
        return data

    async def _get_ranges(self, path: str, ranges: Sequence[ByteRange]) -> list[bytes]:
        spans = merged(ranges, _GAP)
        if not spans or any(begin < 0 or begin > end for begin, end in ranges):
            check_ranges(ranges, (await obstore.head_async(self._store, path))["size"])
            return [b""] * len(ranges)
        try:
            first = await obstore.get_async(self._store, path, options={"range": spans[0]})
        except (BaseError, ValueError):
            # A range that begins beyond the end is refused in each service's own words.
            check_ranges(ranges, (await obstore.head_async(self._store, path))["size"])
            raise
        check_ranges(ranges, first.meta["size"])
        version = first.meta["e_tag"]
        if version is None and len(spans) > 1:  # nothing to hold the service to
            return cut(ranges, [(0, first.meta["size"])], [await self._get(path)])
        limit = asyncio.Semaphore(_AT_ONCE)

        async def further(span: ByteRange) -> bytes:
            async with limit:
                result = await obstore.get_async(self._store, path, options={"range": span, "if_match": version})
                return bytes(await result.bytes_async())

        pieces = [bytes(await first.bytes_async()), *await asyncio.gather(*map(further, spans[1:]))]
        if [len(piece) for piece in pieces] != [end - begin for begin, end in spans]:
            raise IntegrityError(f"expected the ranges of {path} that were asked for; {self._where} gave other ones")
        return cut(ranges, spans, pieces)

    def _translated(self, error: Exception) -> KvquiltError:
        text = str(error)
        where = f"object storage at {self._where}"
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or _CREDENTIALS.search(text):
            return UnavailableError(
                f"expected {where} to accept the credentials and to allow the call; it refused: {_said(error)}: "
                "look at node.object_key_id, node.object_secret or the environment",
                reason="store_refused",
            )
        if _LATE.search(text):
            return DeadlineError(
                f"expected an answer of {where} in time; none came: look at the service, or raise node.object_timeout"
            )
        if "No space left" in text or "507 " in text or "QuotaExceeded" in text:
            return CapacityError(f"expected room in {where}; got {_said(error)}", reason="store_full")
        return UnavailableError(
            f"expected {where} to be reachable and able to serve; got {_said(error)}: look at it, or at "
            "node.object_url and the network"
        )


def _said(error: Exception) -> str:
    """What went wrong, on one line, without the dump of structures and without queries of URLs, which may be signed."""
    text = " ".join(str(error).partition("Debug source")[0].split())
    return re.sub(r"\?[^\s:]*", "", text)[:300]


def _key(path: str) -> bytes | None:
    folder, _, name = path.partition("/")
    found = re.fullmatch(rf"([0-9a-f]{{{2 * DIGEST_BYTES}}})" + re.escape(_SUFFIX), name)
    return bytes.fromhex(found[1]) if found and found[1].startswith(folder) and len(folder) == 2 else None
