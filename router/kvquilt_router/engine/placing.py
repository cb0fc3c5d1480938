"""Chunks into a prompt's KV and out of computed KV: where their keys are rotated."""

from collections.abc import Sequence

import torch

from kvquilt_codec.types import KVChunk, TokenIds
from kvquilt_router.engine.kv import LayerTensors, PromptKV, to_numpy
from kvquilt_router.engine.runner import ModelRunner


def to_chunk(
    runner: ModelRunner, token_ids: TokenIds, layers: Sequence[LayerTensors], begin: int, *, unrotate: bool
) -> KVChunk:
    """See `Engine.to_chunk`."""
    angles = runner.angles(begin, len(token_ids))
    keys = [
        runner.rotary.rotate(layer.keys, index, angles, inverse=True)
        if unrotate and runner.traits.rotates[index]
        else layer.keys
        for index, layer in enumerate(layers)
    ]
    return KVChunk(
        runner.traits.layout,
        token_ids,
        tuple(to_numpy(tensor) for tensor in keys),
        tuple(to_numpy(layer.values) for layer in layers),
        None if unrotate else begin,
    )


class Rotations:
    """Rotates placed keys to their positions, layer by layer; see `Engine.rotations`.

    Every layer that is placed must be rotated once. What is placed later is not among them.
    """

    @torch.inference_mode()
    def __init__(self, runner: ModelRunner, kv: PromptKV) -> None:
        self._runner = runner
        self._kv = kv
        self._spans = [
            (
                begin,
                end,
                None if came_from is None else runner.angles(came_from, end - begin),
                runner.angles(begin, end - begin),
            )
            for begin, end, came_from in _merged(kv.to_rotate)
        ]
        kv.to_rotate.clear()

    @torch.inference_mode()
    def rotate(self, index: int) -> None:
        """Rotate the keys of a layer whose chunks are all written; clear what was not placed."""
        self._kv.clear_unplaced(index)
        rotary = self._runner.rotary
        for begin, end, here, there in self._spans if self._runner.traits.rotates[index] else ():
            part = self._kv.layers[index].keys[:, :, self._kv.place_of(begin, end)]
            keys = part.float()
            if here is not None:
                keys = rotary.rotate(keys, index, here, inverse=True)
            part.copy_(rotary.rotate(keys, index, there))


def _merged(spans: Sequence[tuple[int, int, int | None]]) -> list[tuple[int, int, int | None]]:
    """Adjacent un-rotated spans made one: fewer and larger operations."""
    merged: list[tuple[int, int, int | None]] = []
    for begin, end, came_from in sorted(spans, key=lambda span: span[0]):
        if merged and came_from is None and merged[-1][1:] == (begin, None):
            merged[-1] = (merged[-1][0], end, None)
        else:
            merged.append((begin, end, came_from))
    return merged
