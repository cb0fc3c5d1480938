"""Opens the blobs that the settings name."""

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.file import FileBlobs
from kvquilt_cache_node.store.memory import MemoryBlobs
from kvquilt_cache_node.types import Blobs
from kvquilt_codec.errors import BadRequestError


async def open_blobs(settings: NodeSettings) -> Blobs:
    """Open the blobs of the configured store.

    Raises:
        BadRequestError: settings that do not fit together, or of a package that is not installed.
        UnavailableError: the folder cannot be written, another process holds it, or the server refuses or is not there.
        DeadlineError: the server does not answer.
    """
    if settings.store == "memory":
        return MemoryBlobs()
    if settings.store == "redis":
        return await _redis_blobs(settings)
    if settings.store == "object":
        return _object_blobs(settings)
    return FileBlobs(settings.path, fsync=settings.fsync)


async def _redis_blobs(settings: NodeSettings) -> Blobs:
    try:
        from kvquilt_cache_node.store.opening_redis import connect
        from kvquilt_cache_node.store.redis_blobs import RedisBlobs
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.store", "redis") from None
    client = await connect(settings)
    try:
        return RedisBlobs(client, settings.redis_prefix)
    except BaseException:
        await client.close()
        raise


def _object_blobs(settings: NodeSettings) -> Blobs:
    try:
        from kvquilt_cache_node.store.object_blobs import ObjectBlobs, ObjectOptions, open_object_store
    except ModuleNotFoundError as error:
        raise not_installed(error, "node.store", "object") from None
    url = settings.object_url or ""
    secret = None if settings.object_secret is None else settings.object_secret.get_secret_value()
    options = ObjectOptions(
        settings.object_endpoint, settings.object_key_id, secret, settings.object_timeout, settings.object_retries
    )
    return ObjectBlobs(open_object_store(url, options), url)


def not_installed(error: ModuleNotFoundError, name: str, extra: str) -> BadRequestError:
    """What a setting says that needs a package which is not there."""
    return BadRequestError(
        f"expected the package {error.name} for {name}={extra}; it is not installed: pip install 'kvquilt[{extra}]'"
    )
