"""What a node's store is made of, and how full each part is."""

from collections.abc import Iterator, Mapping

from kvquilt_cache_node.settings import NodeSettings
from kvquilt_cache_node.types import Usage
from kvquilt_proto.v1 import common_pb2

Capacities = Mapping[str, int]
"""Byte caps of what is in front of the store: "memory", "hot", "queue"."""


def capacities(settings: NodeSettings) -> Capacities:
    """Of what the settings put in front of the store."""
    found = {"memory": settings.memory_tier}
    if settings.hot_store != "none":
        found["hot"] = int(settings.hot_capacity)
    if settings.write_mode == "back":
        found["queue"] = int(settings.queue_bytes)
    return {name: size for name, size in found.items() if size}


def tiers(before: Capacities, counters: Mapping[str, int], usage: Usage) -> Iterator[common_pb2.Tier]:
    """The parts of a store, the fastest first.

    Args:
        before: what is in front of it.
        counters: of the node.
        usage: of the store itself.
    """
    for name, size in before.items():
        yield common_pb2.Tier(name=name, used_bytes=counters[f"{name}_bytes"], capacity_bytes=size)
    yield common_pb2.Tier(name="store", used_bytes=usage.used_bytes, capacity_bytes=usage.capacity_bytes)
