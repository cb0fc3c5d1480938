"""Memory objects of every kind that LMCache has: their bytes, or a reason why they are left alone."""

import pytest
import torch
from lmcache.v1.memory_management import BytesBufferMemoryObj, GDSMemoryObject

from kvquilt.integrations.lmcache.memory import view_of
from kvquilt_codec.errors import BadRequestError
from tests.lmcache.objects import content, memory


def test_bytes_and_layout_are_those_of_the_object_itself():
    one = memory(((torch.bfloat16, (2, 3, 4)), (torch.int32, (5,))), seed=1)
    layout, buffer = view_of(one)
    assert [(spec.data_type, spec.shape) for spec in layout] == [("bfloat16", (2, 3, 4)), ("int32", (5,))]
    assert bytes(buffer) == content(one)
    buffer[0] ^= 0xFF
    assert bytes(buffer) == content(one), "LMCache's own memory, not a copy"
    layout, buffer = view_of(BytesBufferMemoryObj(b"three"))
    assert bytes(buffer) == b"three"


def test_what_is_not_in_memory_or_not_in_use_is_refused():
    one = memory(seed=1)
    with pytest.raises(BadRequestError, match="bytes in memory"):
        view_of(GDSMemoryObject(one.metadata))
    one.metadata.dtypes.append(torch.int32)
    with pytest.raises(BadRequestError, match="a type for each shape"):
        view_of(one)
    one.invalidate()
    with pytest.raises(BadRequestError, match="taken its memory back"):
        view_of(one)
