"""What a serving engine needs of the cache, whatever engine it is: plan, fetch layers, save. See `WorkerCache`."""

from kvquilt.worker.boundaries import boundaries
from kvquilt.worker.cache import WorkerCache
from kvquilt.worker.types import (
    Extent,
    KvToSave,
    LayerSink,
    LoadPlan,
    LoadReport,
    ServedModel,
    WorkerOptions,
    WorkerRequest,
)

__all__ = [
    "Extent",
    "KvToSave",
    "LayerSink",
    "LoadPlan",
    "LoadReport",
    "ServedModel",
    "WorkerCache",
    "WorkerOptions",
    "WorkerRequest",
    "boundaries",
]
