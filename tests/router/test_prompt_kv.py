"""Chunks get to their places in a prompt's KV, bit by bit, whatever the element type."""

import numpy as np
import pytest
import torch

from kvquilt_codec.types import DataType, KVLayout, LayerKV, LayerShape
from kvquilt_router.engine.kv import PromptKV, to_torch

SHAPE = LayerShape(3, 8, 8)


@pytest.mark.parametrize("data_type", DataType)
def test_a_written_chunk_is_at_its_place_and_nothing_else_changes(data_type):
    kv = PromptKV(KVLayout(data_type, (SHAPE, SHAPE)), 30, torch.device("cpu"), first=10)
    for layer in kv.layers:
        layer.keys.fill_(7)
        layer.values.fill_(7)
    rng = np.random.default_rng(0)
    keys, values = (rng.normal(size=(9, 3, 8)).astype(data_type.numpy) for _ in range(2))
    kv.write(1, 14, LayerKV(keys[2:7], values[2:7]))
    written = kv.layers[1]
    for tensor, given in ((written.keys, keys), (written.values, values)):
        assert torch.equal(tensor[:, :, 4:9], to_torch(given[2:7], data_type))
        assert (tensor[:, :, :4] == 7).all()
        assert (tensor[:, :, 9:] == 7).all()
        assert (kv.layers[0].keys == 7).all()
