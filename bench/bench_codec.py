"""Codec: size, speed and loss on real KV, beside bf16, zstd and a plain copy. Writes results/codec.json.

KL: mean over a continuation of 192 tokens of KL(full || codec), the context's KV having gone through the codec.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import torch
import zstandard
from transformers.cache_utils import DynamicCache

import kvquilt_kernels
from kvquilt.demo.corpus import passages
from kvquilt_codec import container
from kvquilt_codec import section as sections
from kvquilt_codec.container import ChunkIdentity
from kvquilt_codec.types import KVChunk, Level, VariantKind
from kvquilt_router.engine import load_model
from kvquilt_router.engine.kv import LayerTensors
from report import publish

CONTEXT, CONTINUATION, RUNS = 1024, 192, 5


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """The result, and the median seconds of several runs after one."""
    result = call()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return result, median(seconds)


def main() -> None:
    model = load_model("smollm2", dtype="bfloat16")
    engine = model.engine
    text = "".join(str(document.content) for document in passages().values())
    ids = model.tokenise(text)[: CONTEXT + CONTINUATION]
    layers = engine.prefill(ids[:CONTEXT])
    chunks = {
        Level.LOSSLESS: engine.to_chunk(ids[:CONTEXT], layers, 0, unrotate=False),
        Level.HIGH: engine.to_chunk(ids[:CONTEXT], layers, 0, unrotate=True),
    }
    chunk = chunks[Level.LOSSLESS]
    raw = b"".join(t.tobytes() for layer in zip(chunk.keys, chunk.values, strict=True) for t in layer)
    elements = len(raw) // 2
    exact = logits(model, layers, ids)

    def row(method: str, level: str, size: int, encode_s: float, decode_s: float, got: torch.Tensor) -> dict[str, Any]:
        p, q = exact.log_softmax(-1), got.log_softmax(-1)
        return {
            "method": method,
            "level": level,
            "bits_per_element": 8 * size / elements,
            "kl": float((p.exp() * (p - q)).sum(-1).mean()),
            "top1_agreement": float((exact.argmax(-1) == got.argmax(-1)).float().mean()),
            "encode_gsym_s": elements / encode_s / 1e9,
            "decode_gsym_s": elements / decode_s / 1e9,
            "decode_bf16_gb_s": 2 * elements / decode_s / 1e9,
        }

    copy, copy_s = timed(lambda: bytes(bytearray(raw)))
    rows = [row("copy of bf16", "lossless", len(copy), copy_s, copy_s, exact)]
    packed, pack_s = timed(lambda: zstandard.ZstdCompressor(level=1).compress(raw))
    _, unpack_s = timed(lambda: zstandard.ZstdDecompressor().decompress(packed))
    rows.append(row("zstd on raw bf16", "lossless", len(packed), pack_s, unpack_s, exact))
    identity = ChunkIdentity(model.fingerprint, b"k" * 32, VariantKind.BASE, b"c" * 32)
    for backend in kvquilt_kernels.available().values():
        for level in chunks:
            sections.codec_for_level(level)._kernels = backend
            data, encode_s = timed(lambda level=level: container.encode(chunks[level], level, identity))
            decoded, decode_s = timed(lambda data=data: container.decode(data, model.fingerprint))
            method = f"kvquilt, {backend.name} kernels"
            got = logits(model, placed(engine, decoded.chunk()), ids)
            rows.append(row(method, level.value, len(data), encode_s, decode_s, got))
    conditions = {
        "model": "smollm2",
        "dtype": "bfloat16",
        "texts": "the demo's passages",
        "tokens": f"{CONTEXT} context, {CONTINUATION} continuation",
        "runs": f"median of {RUNS}, one thread",
    }
    publish("codec", conditions, rows)


def placed(engine: Any, chunk: KVChunk) -> list[LayerTensors]:
    kv = engine.empty(chunk.tokens)
    kv.place(chunk, 0)
    engine.rotate_placed(kv)
    return list(kv.layers)


@torch.inference_mode()
def logits(model: Any, layers: list[LayerTensors], ids: "np.ndarray[Any, Any]") -> torch.Tensor:
    cache = DynamicCache([(layer.keys, layer.values) for layer in layers])
    rest = torch.from_numpy(ids[CONTEXT:].astype(np.int64))[None]
    result: torch.Tensor = model.engine._model(rest, past_key_values=cache, use_cache=True).logits[0].float()
    return result


if __name__ == "__main__":
    main()
