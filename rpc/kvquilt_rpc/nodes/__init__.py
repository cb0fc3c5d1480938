"""Several cache nodes behind one interface: which of them is asked, and what happens when it does not answer."""

from kvquilt_rpc.nodes.batch_types import ObjectBatch, ObjectPieces
from kvquilt_rpc.nodes.pool import NodePool, open_nodes
from kvquilt_rpc.nodes.refs import ObjectRef
from kvquilt_rpc.nodes.types import CacheNodes, NodeState, PoolOptions, VariantsFound

__all__ = [
    "CacheNodes",
    "NodePool",
    "NodeState",
    "ObjectBatch",
    "ObjectPieces",
    "ObjectRef",
    "PoolOptions",
    "VariantsFound",
    "open_nodes",
]
