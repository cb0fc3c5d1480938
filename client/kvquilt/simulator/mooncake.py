"""Traces in Mooncake's format: JSON lines with `timestamp`, `input_length`, `hash_ids` of blocks of 512 tokens."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from kvquilt.simulator.types import Access, Trace
from kvquilt_codec.errors import BadRequestError

BLOCK_TOKENS = 512
BYTES_PER_TOKEN = 11_520
"""8 bits for each element of SmolLM2-135M's KV: 30 layers x 3 KV heads x 64 x keys and values."""
PREFILL_TOKENS_PER_SECOND = 300.0
"""Of that model on one core in float32, at the beginning of a prompt."""
ATTENTION_DOUBLES_AT = 3072
"""Position at which attention takes as long as all the rest of that model: 2 x 106 million operations a token against
4 x 576 x 30 for each token that it attends to."""


class Line(msgspec.Struct):
    """One request. All its blocks count as whole: a hash of the last one's part is another block."""

    timestamp: float
    input_length: int
    hash_ids: list[int]


def prefill_seconds(place: int) -> float:
    """Seconds to compute the block at a place of a prompt, what precedes it being there: later ones attend to more."""
    position = (place + 0.5) * BLOCK_TOKENS
    return BLOCK_TOKENS / PREFILL_TOKENS_PER_SECOND * (1 + position / ATTENTION_DOUBLES_AT)


def read(path: Path, bytes_per_token: int = BYTES_PER_TOKEN) -> Trace:
    """A trace in plain or gzipped JSON lines.

    Raises:
        BadRequestError: names the first line that is none of a trace.
    """
    known: dict[tuple[int, int], Access] = {}
    requests = []
    decoder = msgspec.json.Decoder(Line)
    for number, text in _lines(path):
        try:
            line = decoder.decode(text)
        except msgspec.MsgspecError as error:
            raise BadRequestError(f"expected Mooncake's trace format in line {number} of {path}; {error}") from None
        request = []
        for place, block in enumerate(line.hash_ids):
            if (block, place) not in known:
                known[block, place] = Access(block, BLOCK_TOKENS * bytes_per_token, prefill_seconds(place))
            request.append(known[block, place])
        requests.append(request)
    return Trace(path.name, requests)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise BadRequestError(f"expected a file that gzip can read; {path}: {error}") from None
