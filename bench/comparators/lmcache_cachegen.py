"""LMCache's own CacheGen: its package, in its own environment, in a process of its own.

Tensors go through files in the safetensors format. LMCache itself pickles what CacheGen makes; that stays in there.
"""

import json
import os
import subprocess
import tempfile
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from comparators.types import Context
from kvquilt_codec.errors import UnavailableError
from kvquilt_codec.types import DataType, KVChunk, KVLayout, TokenIds
from kvquilt_router.engine.kv import to_torch

CHUNK = 256
"""Tokens that LMCache stores as one object by default."""
_WORKER = Path(__file__).with_name("lmcache_worker.py")
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "LMCACHE_DISABLE_BANNER": "1",
    "LMCACHE_LOG_LEVEL": "ERROR",
    "LMCACHE_TRACK_USAGE": "false",
    "NUMBA_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True, eq=False)
class Coded:
    """What became of one context: stored bytes, CPU seconds, and the KV that came back."""

    bytes: int
    encode_s: float
    decode_s: float
    chunk: KVChunk


def version(python: Path) -> str:
    """LMCache's version in the environment of an interpreter.

    Raises:
        UnavailableError: there is no such interpreter, or it has no LMCache.
    """
    question = "from importlib.metadata import version; print(version('lmcache'))"
    try:
        asked = subprocess.run([python, "-c", question], capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise UnavailableError(f"expected LMCache's environment; got {error}: run make bench-codec") from None
    if asked.returncode:
        raise UnavailableError(f"expected LMCache in {python}; got {_last(asked.stderr.splitlines())}")
    return asked.stdout.strip()


def run(python: Path, model: Path, contexts: Sequence[Context], factor: int = 1) -> Iterator[Coded]:
    """Send contexts through LMCache's CacheGen, one after the other.

    Args:
        python: interpreter of LMCache's environment.
        model: folder with the model's `config.json`, from which LMCache takes the number of layers.
        contexts: their rotated KV is stored, in chunks of `CHUNK` tokens.
        factor: of the number of bins; 1 is what LMCache uses for this model.

    Raises:
        UnavailableError: LMCache cannot be run there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for number, context in enumerate(contexts):
            save_file({"kv": _stacked(context.rotated)}, folder / f"context-{number}.safetensors")
        command = [python, "-P", _WORKER, folder, model, str(CHUNK), str(factor)]
        with (folder / "errors").open("w+") as errors:
            yield from _results(command, errors.fileno(), folder, contexts)


def _results(command: Sequence[str | Path], errors: int, folder: Path, contexts: Sequence[Context]) -> Iterator[Coded]:
    done = 0
    last: deque[str] = deque(maxlen=3)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | _ENVIRONMENT
    with subprocess.Popen(  # noqa: S603
        command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
    ) as process:
        try:
            for line in process.stdout or ():
                if not line.startswith('{"context": '):
                    last.append(line)
                    continue
                report = json.loads(line)
                kv = load_file(folder / f"decoded-{report['context']}.safetensors")["kv"]
                context = contexts[report["context"]]
                chunk = _chunk(kv, context.token_ids, context.layout)
                yield Coded(report["bytes"], report["encode_s"], report["decode_s"], chunk)
                done += 1
        except BaseException:
            process.terminate()
            raise
    if process.returncode or done < len(contexts):
        said = (folder / "errors").read_text().splitlines() or list(last)
        raise UnavailableError(f"expected LMCache to encode {len(contexts)} contexts; it did {done}: {_last(said)}")


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if line.strip()), "no message")


def _stacked(chunk: KVChunk) -> torch.Tensor:
    """`[2, layers, tokens, channels]` in bfloat16."""
    rows = [
        torch.stack([to_torch(array, DataType.BFLOAT16)[0].transpose(0, 1).flatten(1) for array in arrays])
        for arrays in (chunk.keys, chunk.values)
    ]
    return torch.stack(rows).contiguous()


def _chunk(kv: torch.Tensor, token_ids: TokenIds, layout: KVLayout) -> KVChunk:
    words = kv.view(torch.int16).numpy().view(DataType.BFLOAT16.numpy)
    shape = (len(token_ids), layout.layers[0].kv_heads, -1)
    keys, values = ([layer.reshape(shape) for layer in part] for part in words)
    return KVChunk(layout, token_ids, tuple(keys), tuple(values), 0)
