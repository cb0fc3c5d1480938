"""Offsets estimated from earlier requests: KVCOMM (NeurIPS 2025, arXiv 2510.12872; the pool is in `anchor_pool.py`).

A reused chunk whose stored KV is like that of texts seen before gets their offsets added, weighted by likeness, and
nothing of it is computed. Any other chunk is computed whole, and learned. The ratio therefore has no effect: a cold
pool reuses nothing. What is learned was computed over the prompt's other chunks as they are there, estimated ones
included; the paper does the same.
"""

import numpy as np

from kvquilt_router.policies.anchor_pool import AnchorPool, SpanKV
from kvquilt_router.selection import BlendProbe, KVView, ReusedChunk, Selection, SelectionProblem


class Anchors:
    """Policy `anchors`, an `EstimatingPolicy`: one object serves one blend, around a pool that serves many.

    Args:
        pool: of the model and the namespace; without one everything is computed.
    """

    name = "anchors"
    looks = True

    def __init__(self, pool: AnchorPool | None = None) -> None:
        self._pool = AnchorPool() if pool is None else pool
        self._bases: dict[tuple[int, int], SpanKV] = {}
        """What was stored of chunks that are computed, by their place."""
        self._estimated: set[tuple[int, int]] = set()

    def estimate(self, problem: SelectionProblem, kv: KVView) -> None:
        """See `EstimatingPolicy.estimate`."""
        for chunk in problem.chunks:
            base = _read(kv, chunk)
            estimated = self._pool.estimate(base)
            if estimated is None:
                self._bases[chunk.begin, chunk.end] = base
                continue
            self._estimated.add((chunk.begin, chunk.end))
            for layer in range(1, kv.layers):
                kv.write(layer, chunk.begin, estimated.keys[layer], estimated.values[layer])

    def select(self, problem: SelectionProblem, probe: BlendProbe) -> Selection:
        """See `RecomputePolicy.select`."""
        del probe
        dense = [np.arange(*span) for span in problem.spans if span not in self._estimated]
        return Selection(np.concatenate([*dense, np.empty(0, np.int64)]))

    def observe(self, problem: SelectionProblem, kv: KVView) -> None:
        """See `EstimatingPolicy.observe`."""
        for chunk in problem.chunks:
            base = self._bases.pop((chunk.begin, chunk.end), None)
            if base is not None:
                self._pool.add(base, _read(kv, chunk))


def _read(kv: KVView, chunk: ReusedChunk) -> SpanKV:
    layers = [kv.read(layer, chunk.begin, chunk.end) for layer in range(kv.layers)]
    return SpanKV(tuple(keys for keys, _ in layers), tuple(values for _, values in layers))
