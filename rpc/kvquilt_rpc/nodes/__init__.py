"""Several cache nodes behind one interface: which of them is asked, and what happens when it does not answer."""

from kvquilt_rpc.nodes.pool import NodePool, open_nodes
from kvquilt_rpc.nodes.types import CacheNodes, NodeState, ObjectRef, PoolOptions, VariantsFound

__all__ = ["CacheNodes", "NodePool", "NodeState", "ObjectRef", "PoolOptions", "VariantsFound", "open_nodes"]
