"""The connector's counters in vLLM's log and in its Prometheus metrics."""

from typing import Any

from prometheus_client import Counter
from vllm.distributed.kv_transfer.kv_connector.v1.metrics import KVConnectorPromMetrics, KVConnectorStats

from kvquilt.integrations.vllm.counting import COUNTERS


class KvquiltStats(KVConnectorStats):  # type: ignore[misc]  # vLLM is not installed where types are checked
    """What counters grew by since this was last told; those that did not are left out."""

    data: dict[str, int]

    @classmethod
    def of(cls, grown: dict[str, int]) -> "KvquiltStats":
        """Of growth by counter."""
        return cls(data=grown)

    def reset(self) -> None:
        """See vLLM."""
        self.data = {}

    def aggregate(self, other: Any) -> "KvquiltStats":
        """See vLLM."""
        for name, amount in other.data.items():
            self.data[name] = self.data.get(name, 0) + amount
        return self

    def reduce(self) -> dict[str, int | float]:
        """See vLLM."""
        return {f"kvquilt {name}": amount for name, amount in sorted(self.data.items())}

    def is_empty(self) -> bool:
        """See vLLM."""
        return not self.data


class KvquiltPrometheus(KVConnectorPromMetrics):  # type: ignore[misc]
    """`vllm:kvquilt_*_total`: a counter for each of `COUNTERS`, for each engine."""

    def __init__(
        self,
        vllm_config: Any,
        metric_types: dict[Any, Any],
        labelnames: list[str],
        per_engine_labelvalues: dict[int, list[object]],
    ) -> None:
        super().__init__(vllm_config, metric_types, labelnames, per_engine_labelvalues)
        made = {
            name: metric_types[Counter](
                name=f"vllm:kvquilt_{name}", documentation=f"kvquilt: {name}; see its reference.", labelnames=labelnames
            )
            for name in COUNTERS
        }
        self._counters = {
            engine: {name: counter.labels(*values) for name, counter in made.items()}
            for engine, values in per_engine_labelvalues.items()
        }

    def observe(self, transfer_stats_data: dict[str, Any], engine_idx: int = 0) -> None:
        """See vLLM."""
        for name, amount in transfer_stats_data.items():
            if name in COUNTERS:
                self._counters[engine_idx][name].inc(amount)
