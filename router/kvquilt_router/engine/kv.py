"""KV tensors of one prompt, layer by layer, and the way between NumPy chunks and torch.

torch layout, as HF Transformers has it: `[1, kv_heads, tokens, dim]`. Chunk layout: `[tokens, kv_heads, dim]`.
"""

from dataclasses import dataclass

import numpy as np
import torch

from kvquilt_codec.types import Array, DataType, KVChunk, KVLayout, LayerKV

TORCH_TYPES = {
    DataType.BFLOAT16: torch.bfloat16,
    DataType.FLOAT16: torch.float16,
    DataType.FLOAT32: torch.float32,
}


def to_torch(array: Array, data_type: DataType) -> torch.Tensor:
    """`[tokens, kv_heads, dim]` to `[1, kv_heads, tokens, dim]`, without a copy."""
    if data_type is DataType.BFLOAT16:
        tensor = torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    else:
        tensor = torch.from_numpy(array)
    return tensor.transpose(0, 1).unsqueeze(0)


def to_numpy(tensor: torch.Tensor) -> Array:
    """`[1, kv_heads, tokens, dim]` to a C-contiguous copy `[tokens, kv_heads, dim]`."""
    rows = tensor.detach()[0].transpose(0, 1).contiguous().cpu()
    if rows.dtype is torch.bfloat16:
        return rows.view(torch.int16).numpy().view(DataType.BFLOAT16.numpy)
    return rows.numpy()


def heads_first(array: Array, data_type: DataType) -> torch.Tensor:
    """`[kv_heads, tokens, dim]`, as `wire_bytes` gives it, to `[1, kv_heads, tokens, dim]`, without a copy."""
    return to_torch(array.transpose(1, 0, 2), data_type)


@dataclass(frozen=True, slots=True, eq=False)
class LayerTensors:
    """Keys and values of one layer, `[1, kv_heads, tokens, dim]`; keys rotated to their positions."""

    keys: torch.Tensor
    values: torch.Tensor


class PromptKV:
    """Room for the KV of a prompt's first `tokens` tokens; chunks are placed into it, keys rotated later.

    Positions are those of the prompt. With `first`, the tensors hold the tokens from there on, and so must what is
    placed; what computes takes KV from the first token on only.

    Positions where nothing was placed hold whatever was in memory until `clear_unplaced` or a recompute writes them.

    A chunk is placed as a whole (`place`), or, where its layers come one by one, reserved and then written by layer.
    """

    def __init__(self, layout: KVLayout, tokens: int, device: torch.device, first: int = 0) -> None:
        dtype = TORCH_TYPES[layout.data_type]
        self.layout = layout
        self.tokens = tokens
        self.first = first
        room = tokens - first
        self.layers = [
            LayerTensors(
                torch.empty(1, layer.kv_heads, room, layer.key_dim, dtype=dtype, device=device),
                torch.empty(1, layer.kv_heads, room, layer.value_dim, dtype=dtype, device=device),
            )
            for layer in layout.layers
        ]
        self.placed: list[tuple[int, int]] = []
        self.to_rotate: list[tuple[int, int, int | None]] = []
        """Spans whose keys are not at their positions yet: begin, end, position of the first key (None: un-rotated)."""

    @classmethod
    def over(cls, layout: KVLayout, layers: list[LayerTensors]) -> "PromptKV":
        """A prompt's KV that is complete already, in the tensors that hold it; they are written in place."""
        kv = cls(layout, 0, layers[0].keys.device)
        kv.layers = layers
        kv.tokens = layers[0].keys.shape[2]
        kv.placed = [(0, kv.tokens)]
        return kv

    def place(self, chunk: KVChunk, begin: int) -> None:
        """Copy a chunk to positions `begin` onwards; keys that belong elsewhere are noted in `to_rotate`."""
        self.reserve(begin, begin + chunk.tokens, chunk.rotated_from)
        for index in range(len(self.layers)):
            self.write(index, begin, chunk.layer(index))

    def reserve(self, begin: int, end: int, rotated_from: int | None) -> None:
        """Note that a chunk whose keys are as `KVChunk.rotated_from` says goes to positions `begin` to `end`."""
        self.placed.append((begin, end))
        if rotated_from != begin:
            self.to_rotate.append((begin, end, rotated_from))

    def write(self, index: int, begin: int, kv: LayerKV) -> None:
        """Copy one layer of a chunk to positions `begin` onwards."""
        layer, place = self.layers[index], self.place_of(begin, begin + len(kv.keys))
        for room, array in ((layer.keys[:, :, place], kv.keys), (layer.values[:, :, place], kv.values)):
            _copy(array, room, self.layout.data_type)

    def place_of(self, begin: int, end: int) -> slice:
        """Where positions `begin` to `end` are in the tensors."""
        return slice(begin - self.first, end - self.first)

    def clear_unplaced(self, index: int) -> None:
        """Write zeros into one layer where nothing was placed: a masked position adds nothing only if it is finite."""
        position, layer = self.first, self.layers[index]
        for begin, end in [*sorted(self.placed), (self.tokens, self.tokens)]:
            if begin > position:
                layer.keys[:, :, self.place_of(position, begin)] = 0
                layer.values[:, :, self.place_of(position, begin)] = 0
            position = max(position, end)


def _copy(array: Array, room: torch.Tensor, data_type: DataType) -> None:
    """Copy `[tokens, kv_heads, dim]` to `[1, kv_heads, tokens, dim]`.

    On a CPU in this thread alone: torch deals each chunk out to its threads, which takes longer than the copy, and
    many times as long while other threads have the cores.
    """
    source = to_torch(array, data_type)
    if room.device.type != "cpu":
        room.copy_(source)
        return
    words = torch.int16 if data_type.numpy.itemsize == 2 else torch.int32
    np.copyto(room.view(words).numpy(), source.view(words).numpy())


def wire_bytes(tensor: torch.Tensor) -> memoryview:
    """`[1, kv_heads, tokens, dim]` as the bytes of `[kv_heads, tokens, dim]`; no copy for a contiguous CPU tensor."""
    return tensor.detach()[0].contiguous().cpu().reshape(-1).view(torch.uint8).numpy().data
