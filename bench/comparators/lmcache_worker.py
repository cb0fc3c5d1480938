"""Runs LMCache's own CacheGen on KV of files. Executed by LMCache's Python, in a process of its own, on the CPU.

Arguments: folder, model folder, tokens a chunk, bins factor. Reads `context-N.safetensors` in the folder (`kv`:
bfloat16 `[2, layers, tokens, channels]`), writes `decoded-N.safetensors`, and prints one JSON line a context.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lmcache.v1.config import LMCacheEngineConfig
from lmcache.v1.memory_management import MemoryFormat, MemoryObjMetadata, TensorMemoryObj
from lmcache.v1.metadata import LMCacheMetadata
from lmcache.v1.storage_backend.naive_serde import CreateSerde
from safetensors.torch import load_file, save_file


def serde(model: str, shape: tuple[int, ...], chunk: int, factor: int) -> tuple[Any, Any]:
    """LMCache's serializer and deserializer for a model's KV `[2, layers, tokens, channels]`; bins times `factor`."""
    metadata = LMCacheMetadata(
        model_name=model,
        world_size=1,
        local_world_size=1,
        worker_id=0,
        local_worker_id=0,
        kv_dtype=torch.bfloat16,
        kv_shape=(shape[1], 2, chunk, 1, shape[3]),
    )
    pair = CreateSerde("cachegen", metadata, LMCacheEngineConfig.from_defaults(chunk_size=chunk))
    for end in pair:
        for spec in (*end.cachegen_config.kspecs, *end.cachegen_config.vspecs):
            spec.bins *= factor
        end.key_bins = end.make_key_bins(end.cachegen_config)
        end.value_bins = end.make_value_bins(end.cachegen_config)
    return pair


def memory_object(tensor: torch.Tensor) -> Any:
    """A chunk as LMCache holds it."""
    flat = tensor.flatten().view(torch.uint8)
    about = MemoryObjMetadata(
        shape=tensor.shape,
        dtype=tensor.dtype,
        address=0,
        phy_size=flat.numel(),
        ref_count=1,
        fmt=MemoryFormat.KV_2LTD,
    )
    return TensorMemoryObj(raw_data=flat, metadata=about, parent_allocator=None)


def timed(call: Callable[[Any], Any], argument: Any) -> tuple[Any, float]:
    """The result and the CPU seconds it took."""
    started = time.process_time()
    result = call(argument)
    return result, time.process_time() - started


def main(folder: Path, model: str, chunk: int, factor: int) -> None:
    """See the module."""
    torch.set_num_threads(1)
    paths = sorted(folder.glob("context-*.safetensors"), key=lambda path: int(path.stem.split("-")[1]))
    for number, path in enumerate(paths):
        kv = load_file(path)["kv"]
        encoder, decoder = serde(model, tuple(kv.shape), chunk, factor)
        if number == 0:
            decoder.deserialize(encoder.serialize(memory_object(kv[:, :, :chunk].contiguous())))  # compiles
        size, encode_s, decode_s, decoded = 0, 0.0, 0.0, []
        for begin in range(0, kv.shape[2], chunk):
            part = memory_object(kv[:, :, begin : begin + chunk].contiguous())
            stored, seconds = timed(encoder.serialize, part)
            encode_s += seconds
            size += len(stored.byte_array)
            back, seconds = timed(decoder.deserialize, stored)
            decode_s += seconds
            decoded.append(back.tensor.clone())
        save_file({"kv": torch.cat(decoded, dim=2).contiguous()}, folder / f"decoded-{number}.safetensors")
        line = {"context": number, "bytes": size, "encode_s": encode_s, "decode_s": decode_s}
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
