"""Byte-level kernels of the codec: one interface (`types.Kernels`), the backends beside it."""

import importlib.util

from kvquilt_kernels.reference import ReferenceKernels
from kvquilt_kernels.types import Kernels

__all__ = ["Kernels", "available", "default"]


def available() -> dict[str, Kernels]:
    """Every backend that this installation has, by name, the fastest first."""
    backends: list[Kernels] = []
    if importlib.util.find_spec("kvquilt_kernels._native") is not None:
        from kvquilt_kernels.native import NativeKernels

        backends.append(NativeKernels())
    backends.append(ReferenceKernels())
    return {backend.name: backend for backend in backends}


def default() -> Kernels:
    """The fastest backend that this installation has (`kvquilt status` shows its name)."""
    return next(iter(available().values()))
