"""vLLM: a KV connector that loads from kvquilt and saves to it. docs/vllm.md shows how.

The connector runs inside vLLM, in its environment (`pip install kvquilt` there). `kvquilt.integrations.vllm.options`
can be imported without vLLM.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kvquilt.integrations.vllm.connector import KvquiltConnector

__all__ = ["KvquiltConnector"]


def __getattr__(name: str) -> Any:
    if name == "KvquiltConnector":
        from kvquilt.integrations.vllm.connector import KvquiltConnector

        return KvquiltConnector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
