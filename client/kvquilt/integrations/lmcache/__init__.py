"""LMCache: its multiprocess server keeps KV on kvquilt's cache nodes, as an L2 adapter (docs/lmcache.md).

`lmcache server --l2-adapter '{"type": "plugin", "module_path": "kvquilt.integrations.lmcache", "class_name":
"KvquiltL2Adapter", "adapter_params": {"nodes": "127.0.0.1:7411"}}'`

The two names below need LMCache in the same environment, and are imported when they are asked for; the rest of the
package is used without it.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvquilt.integrations.lmcache.adapter import KvquiltL2Adapter
    from kvquilt.integrations.lmcache.config import KvquiltL2AdapterConfig

__all__ = ["KvquiltL2Adapter", "KvquiltL2AdapterConfig"]


def __getattr__(name: str) -> Any:
    if name == "KvquiltL2Adapter":
        from kvquilt.integrations.lmcache.adapter import KvquiltL2Adapter

        return KvquiltL2Adapter
    if name == "KvquiltL2AdapterConfig":
        from kvquilt.integrations.lmcache.config import KvquiltL2AdapterConfig

        return KvquiltL2AdapterConfig
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
