"""What the LMCache adapter makes of real KV: bytes, and seconds of one thread. Needs no LMCache.

The KV is the demo model's, of the licence text, in bfloat16 with rotated keys, in LMCache's chunks of 256 tokens.
"""

import json
import time
from pathlib import Path

import ml_dtypes
import numpy as np

from kvquilt.integrations.lmcache.coding import Coding
from kvquilt.integrations.lmcache.identity import TensorSpec
from kvquilt.integrations.lmcache.settings import parsed
from kvquilt_router.engine import load_model

CHUNK = 256
CHUNKS = 8
RESULT = Path("bench/results/lmcache.json")


class Key:
    """As LMCache's `ObjectKey`."""

    model_name = "demo"
    kv_rank = object_group_id = 0
    cache_salt = ""

    def __init__(self, chunk: int) -> None:
        self.chunk_hash = chunk.to_bytes(32, "big")


def chunks() -> tuple[tuple[int, ...], int, list[bytes]]:
    """Shape `[2, layers, 256, width]` and head dimension, and the bytes of each chunk."""
    loaded = load_model("smollm2")
    tokens = loaded.tokenise(Path("LICENSE").read_text())[: CHUNK * CHUNKS]
    chunk = loaded.engine.to_chunk(tokens, loaded.engine.prefill(tokens), 0, unrotate=False)
    both = np.stack([np.stack(part) for part in (chunk.keys, chunk.values)]).astype(ml_dtypes.bfloat16)
    flat = both.reshape(*both.shape[:3], -1)
    pieces = [flat[:, :, at : at + CHUNK].tobytes() for at in range(0, CHUNK * CHUNKS, CHUNK)]
    return (2, flat.shape[1], CHUNK, flat.shape[3]), both.shape[-1], pieces


def main() -> None:
    shape, head_dim, raw = chunks()
    layout = (TensorSpec("bfloat16", shape),)
    results = {}
    for level in ("lossless", "high"):
        coding = Coding(parsed({"models": {"demo": {"level": level, "head_dim": head_dim}}}))
        items = [coding.item(Key(number), layout, len(raw[0])) for number in range(len(raw))]
        began = time.process_time()
        encoded = [coding.encode(item, memoryview(data))[0] for item, data in zip(items, raw, strict=True)]
        encoding = time.process_time() - began
        buffers = [bytearray(len(data)) for data in raw]
        began = time.process_time()
        for item, data, buffer in zip(items, encoded, buffers, strict=True):
            coding.decode(item, data, memoryview(buffer))
        decoding = time.process_time() - began
        if level == "lossless" and buffers != raw:
            raise AssertionError("lossless KV came back as something else")
        size = sum(map(len, raw))
        results[level] = {
            "raw_bytes": size,
            "stored_bytes": sum(map(len, encoded)),
            "share": sum(map(len, encoded)) / size,
            "encode_mb_per_cpu_second": size / encoding / 1e6,
            "decode_mb_per_cpu_second": size / decoding / 1e6,
        }
        print(level, {name: round(value, 3) for name, value in results[level].items()})
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
