"""A prompt's KV as policies see it: NumPy, keys free of their positions."""

import numpy as np
import torch
from numpy.typing import NDArray

from kvquilt_router.engine.kv import PromptKV
from kvquilt_router.engine.rotary import Rotary


class PositionFreeView:
    """Reads and writes a prompt's KV with un-rotated keys; a `KVView`.

    Args:
        kv: keys rotated to their positions.
        rotary: of the model.
        rotates: per layer, whether its keys carry their position.
    """

    def __init__(self, kv: PromptKV, rotary: Rotary, rotates: tuple[bool, ...]) -> None:
        self._kv = kv
        self._rotary = rotary
        self._rotates = rotates

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self._kv.layers)

    @torch.inference_mode()
    def read(self, layer: int, begin: int, end: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """See `KVView.read`."""
        tensors = self._kv.layers[layer]
        keys = self._rotated(tensors.keys[:, :, begin:end].float(), layer, begin, inverse=True)
        return _copy(keys), _copy(tensors.values[:, :, begin:end])

    @torch.inference_mode()
    def write(self, layer: int, begin: int, keys: NDArray[np.float32], values: NDArray[np.float32]) -> None:
        """See `KVView.write`."""
        tensors = self._kv.layers[layer]
        end = begin + keys.shape[1]
        device = tensors.keys.device
        rotated = self._rotated(torch.from_numpy(keys)[None].to(device), layer, begin, inverse=False)
        tensors.keys[:, :, begin:end] = rotated
        tensors.values[:, :, begin:end] = torch.from_numpy(values)[None].to(device)

    def _rotated(self, keys: torch.Tensor, layer: int, begin: int, *, inverse: bool) -> torch.Tensor:
        if not self._rotates[layer]:
            return keys
        positions = torch.arange(begin, begin + keys.shape[2], device=keys.device)
        return self._rotary.rotate(keys, layer, self._rotary.angles(positions), inverse=inverse)


def _copy(tensor: torch.Tensor) -> NDArray[np.float32]:
    copied: NDArray[np.float32] = np.array(tensor[0].float().cpu().numpy())
    return copied
