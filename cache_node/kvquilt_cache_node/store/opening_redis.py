"""Connects to the Redis that the settings name."""

from pydantic import SecretStr

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions


async def connect(settings: NodeSettings) -> RedisClient:
    """A client of its own for each that asks.

    Raises:
        As `RedisClient.connect`.
    """
    return await RedisClient.connect(_url(settings.redis_url), _options(settings))


def hot_client(settings: NodeSettings) -> RedisClient:
    """A client of the hot tier's Redis; not connected yet.

    Raises:
        BadRequestError: certificates that cannot be read.
    """
    return RedisClient(_url(settings.hot_redis_url or settings.redis_url), _options(settings))


def _url(named: SecretStr | None) -> RedisUrl:
    return RedisUrl.parse("" if named is None else named.get_secret_value())


def _options(settings: NodeSettings) -> RedisOptions:
    tls = (settings.redis_ca, settings.redis_certificate, settings.redis_key)
    return RedisOptions(settings.redis_connections, settings.redis_timeout, *tls)
