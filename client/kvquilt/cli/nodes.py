"""Calls of the cache nodes that the settings of a router name."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from kvquilt.cli.settings import load
from kvquilt_rpc.nodes import CacheNodes, open_nodes

Result = TypeVar("Result")


def call_nodes(config: Path | None, flags: list[str], call: Callable[[CacheNodes, float], Awaitable[Result]]) -> Result:
    """Call `router.nodes` as `router.node_credentials`; the call gets the seconds that it may take.

    Raises:
        As the settings and the call.
    """
    settings = load(config, flags).settings.router

    async def called() -> Result:
        credentials = settings.node_credentials
        async with open_nodes(settings.nodes, settings.pool_options(), credentials=credentials) as nodes:
            return await call(nodes, settings.put_deadline)

    return asyncio.run(called())
