"""Chunks into a prompt's KV and out of computed KV: where their keys are rotated."""

from collections.abc import Sequence

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


def rotate_placed(runner: ModelRunner, kv: PromptKV) -> None:
    """See `Engine.rotate_placed`."""
    kv.clear_unplaced()
    for begin, end, came_from in _merged(kv.to_rotate):
        there = runner.angles(begin, end - begin)
        here = None if came_from is None else runner.angles(came_from, end - begin)
        for index, layer in enumerate(kv.layers):
            if runner.traits.rotates[index]:
                part = layer.keys[:, :, begin:end]
                keys = part.float()
                if here is not None:
                    keys = runner.rotary.rotate(keys, index, here, inverse=True)
                part.copy_(runner.rotary.rotate(keys, index, there))
    kv.to_rotate.clear()


def _merged(spans: Sequence[tuple[int, int, int | None]]) -> list[tuple[int, int, int | None]]:
    """Adjacent un-rotated spans made one: fewer and larger operations."""
    merged: list[tuple[int, int, int | None]] = []
    for begin, end, came_from in sorted(spans, key=lambda span: span[0]):
        if merged and came_from is None and merged[-1][1:] == (begin, None):
            merged[-1] = (merged[-1][0], end, None)
        else:
            merged.append((begin, end, came_from))
    return merged
