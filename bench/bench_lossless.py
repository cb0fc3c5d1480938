"""Lossless sections of real KV: size by chunk length, and speed, beside byte planes compressed with zstd.

Keys are rotated, as stored. `exponents-rans` is codec 7 with everything a section holds; in `planes-zstd`
planes of each byte, after the sign was moved below the mantissa, are zstd frames of level 1 where that is smaller;
NumPy splits them, which takes about as long as zstd. Of float32 the same model's KV was computed in float32.
Writes results/lossless.json.
"""

from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from kvquilt.demo.corpus import passages
from kvquilt_codec.section.exponents import ExponentsRans
from kvquilt_codec.types import TOKEN_BLOCK, Array
from kvquilt_router.engine import load_model
from report import publish
from timing import median_seconds

RUNS = 9
LENGTHS = {"bfloat16": (128, 256, 512, 1024), "float32": (256,)}


class PlanesZstd:
    """The comparator: general-purpose compression of byte planes."""

    name = "planes-zstd"

    def encode(self, tensor: Array) -> list[tuple[bool, bytes]]:
        """Planes, the lowest byte first, each with whether it is compressed."""
        width = tensor.dtype.itemsize
        words = tensor.view(np.uint16 if width == 2 else np.uint32).reshape(-1)
        rotated = (words << words.dtype.type(1)) | (words >> words.dtype.type(8 * width - 1))
        planes = [np.ascontiguousarray(plane).tobytes() for plane in rotated.view(np.uint8).reshape(-1, width).T]
        packed = [zstandard.ZstdCompressor(level=1).compress(plane) for plane in planes]
        return [
            (len(small) < len(raw), small if len(small) < len(raw) else raw)
            for raw, small in zip(planes, packed, strict=True)
        ]

    def decode(self, planes: list[tuple[bool, bytes]], out: Array) -> None:
        """Undo `encode`."""
        rotated: NDArray[np.uint8] = np.empty((out.size, out.dtype.itemsize), np.uint8)
        for at, (packed, data) in enumerate(planes):
            raw = zstandard.ZstdDecompressor().decompress(data) if packed else data
            rotated[:, at] = np.frombuffer(raw, np.uint8)
        words = rotated.view(np.uint16 if out.dtype.itemsize == 2 else np.uint32).reshape(-1)
        back = (words >> words.dtype.type(1)) | (words << words.dtype.type(8 * out.dtype.itemsize - 1))
        out[...] = back.view(out.dtype).reshape(out.shape)


def size_of(payload: Any) -> int:
    """Bytes of a section: a mode and a length for each plane of the comparator."""
    return len(payload) if isinstance(payload, bytes) else sum(5 + len(data) for _, data in payload)


def measure(dtype: str, length: int, tensors: list[Array], codec: Any) -> dict[str, Any]:
    """One row: all tensors of a chunk, in token blocks."""
    sections = [
        np.ascontiguousarray(tensor[at : at + TOKEN_BLOCK])
        for tensor in tensors
        for at in range(0, length, TOKEN_BLOCK)
    ]
    payloads = [codec.encode(section) for section in sections]
    outs = [np.empty_like(section) for section in sections]

    def decode() -> None:
        for payload, out in zip(payloads, outs, strict=True):
            codec.decode(payload, out)

    encode_s = median_seconds(lambda: [codec.encode(section) for section in sections], RUNS)
    decode_s = median_seconds(decode, RUNS)
    for section, out in zip(sections, outs, strict=True):
        if section.tobytes() != out.tobytes():
            raise ValueError(f"expected {codec.name} to be lossless; it is not")
    raw = sum(section.nbytes for section in sections)
    return {
        "method": codec.name,
        "dtype": dtype,
        "tokens": length,
        "bits_per_element": 8 * sum(map(size_of, payloads)) / sum(section.size for section in sections),
        "encode_gb_s": raw / encode_s / 1e9,
        "decode_gb_s": raw / decode_s / 1e9,
    }


def main() -> None:
    rows = []
    for dtype, lengths in LENGTHS.items():
        model = load_model("smollm2", dtype=dtype)
        ids = model.tokenise("".join(str(document.content) for document in passages().values()))[: max(lengths)]
        chunk = model.engine.to_chunk(ids, model.engine.prefill(ids), 0, unrotate=False)
        for length in lengths:
            tensors = [np.asarray(tensor[-length:]) for tensor in (*chunk.keys, *chunk.values)]
            rows += [measure(dtype, length, tensors, codec) for codec in (ExponentsRans(), PlanesZstd())]
    conditions = {
        "model": "smollm2",
        "texts": "the demo's passages, the last tokens of a context",
        "runs": f"median of {RUNS}, one thread, GB/s of raw tensors",
    }
    publish("lossless", conditions, rows)


if __name__ == "__main__":
    main()
