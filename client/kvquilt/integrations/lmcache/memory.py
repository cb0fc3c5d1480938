"""LMCache's memory objects as bytes with a layout."""

import math
from collections.abc import Sequence
from typing import Any

from lmcache.v1.distributed.api import MemoryLayoutDesc
from lmcache.v1.memory_management import MemoryObj

from kvquilt.integrations.lmcache.identity import Layout, TensorSpec
from kvquilt.integrations.lmcache.tensors import Buffer
from kvquilt_codec.errors import BadRequestError


def described_layout(described: MemoryLayoutDesc | None) -> tuple[Layout, int] | None:
    """Layout and bytes that LMCache says objects will have; `None`: it does not say."""
    if described is None or not described.shapes:
        return None
    size = sum(
        math.prod(shape) * int(dtype.itemsize) for shape, dtype in zip(described.shapes, described.dtypes, strict=True)
    )
    return _layout(described.shapes, described.dtypes), size


def view_of(memory: MemoryObj) -> tuple[Layout, Buffer]:
    """Layout and bytes of an object; the bytes are LMCache's own memory.

    Raises:
        BadRequestError: LMCache has taken its memory back, it has no shape, or its memory cannot be seen from here.
    """
    if not memory.is_valid():
        raise BadRequestError("expected a memory object that is in use; LMCache has taken its memory back")
    meta = memory.metadata
    shapes, dtypes = meta.shapes or [meta.shape], meta.dtypes or [meta.dtype]
    if len(shapes) != len(dtypes):
        raise BadRequestError(f"expected a memory object with a type for each shape; got {len(shapes)}, {len(dtypes)}")
    try:
        data = memory.byte_array
    except NotImplementedError as error:  # of GPUDirect Storage: its bytes are in a file
        raise BadRequestError(f"expected a memory object with its bytes in memory; {error}") from None
    return _layout(shapes, dtypes), memoryview(data).cast("B")


def _layout(shapes: Sequence[Any], dtypes: Sequence[Any]) -> Layout:
    return tuple(
        TensorSpec(str(dtype).removeprefix("torch."), tuple(map(int, shape)))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    )
