"""Byte-level kernels of the codec: one interface (`types.Kernels`), the backends beside it."""

import importlib.util

from kvquilt_kernels.reference import ReferenceKernels
from kvquilt_kernels.types import BackendUnavailableError, Kernels

__all__ = ["BackendUnavailableError", "Kernels", "available", "backend", "default"]

_NAMES = ("native", "triton", "reference")


def backend(name: str) -> Kernels:
    """The backend "native", "triton" or "reference".

    Raises:
        BackendUnavailableError: this installation or this machine cannot run it.
        ValueError: another name.
    """
    match name:
        case "native":
            if importlib.util.find_spec("kvquilt_kernels._native") is None:
                raise BackendUnavailableError(
                    "expected the native kernels; they were not built: install kvquilt again, with a C++20 compiler"
                )
            from kvquilt_kernels.native import NativeKernels

            return NativeKernels()
        case "triton":
            missing = [needed for needed in ("torch", "triton") if importlib.util.find_spec(needed) is None]
            if missing:
                raise BackendUnavailableError(
                    f"expected the packages torch and triton; {' and '.join(missing)} not installed: "
                    "pip install kvquilt[triton]"
                )
            from kvquilt_kernels.triton import TritonKernels

            return TritonKernels(default())
        case "reference":
            return ReferenceKernels()
    raise ValueError(f"expected one of {', '.join(_NAMES)}; got {name!r}")


def available() -> dict[str, Kernels]:
    """Every backend that can run here, by name, `default` first but for "triton", the reference last.

    "triton" needs a GPU, or TRITON_INTERPRET=1 in the environment. To look for one, torch is imported where it is
    installed.
    """
    found: dict[str, Kernels] = {}
    for name in _NAMES:
        try:
            found[name] = backend(name)
        except BackendUnavailableError:
            continue
    return found


def default() -> Kernels:
    """The fastest backend for one block from and to memory (`kvquilt status` shows its name): never "triton"."""
    try:
        return backend("native")
    except BackendUnavailableError:
        return backend("reference")
