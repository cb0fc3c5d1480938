"""Connects to the Redis that the settings name."""

from kvquilt_cache_node.redis_url import RedisUrl
from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.store.redis_client import RedisClient, RedisOptions


async def connect(settings: NodeSettings) -> RedisClient:
    """A client of its own for each that asks.

    Raises:
        As `RedisClient.connect`.
    """
    url = RedisUrl.parse("" if settings.redis_url is None else settings.redis_url.get_secret_value())
    tls = (settings.redis_ca, settings.redis_certificate, settings.redis_key)
    return await RedisClient.connect(url, RedisOptions(settings.redis_connections, settings.redis_timeout, *tls))
