"""Fingerprints of a text, by which its chunks are found inside longer texts at any offset.

Robust winnowing (Schleimer, Wilkerson, Aiken: "Winnowing: local algorithms for document fingerprinting", SIGMOD 2003):
of every window of hashes of k-grams the smallest is kept, which takes about 2 / (window + 1) of them. Two texts that
share a run of `SHARED_RUN` tokens share a fingerprint, wherever the run lies in either.

What is stored and sent are keyed digests of the k-grams' tokens: without the namespace's secret they tell nothing, and
a match of them is only a guess that its finder must verify token by token.
"""

import hmac
import itertools
import struct

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.identity import Namespace, framed, token_bytes
from kvquilt_codec.rolling import run_hashes, sliding_minimum
from kvquilt_codec.types import TokenIds, check_token_ids

K = 16
"""Tokens of a k-gram."""
WINDOW = 48
"""Neighbouring k-grams of which at least one is kept."""
SHARED_RUN = K + WINDOW - 1
"""Tokens of the shortest shared run that is sure to be found."""
FINGERPRINT_BYTES = 16
MAX_TEXT_TOKENS = 1 << 20
MAX_PER_CHUNK = 1024
"""Fingerprints that are kept of a chunk: six times what 4,096 tokens of ordinary text have."""

_RECORD = struct.Struct(f"<H{FINGERPRINT_BYTES}s")

Fingerprint = tuple[int, bytes]
"""Offset of a k-gram's first token in its text, and the k-gram's digest."""


def fingerprints(namespace: Namespace, model_fingerprint: str, token_ids: TokenIds) -> list[Fingerprint]:
    """Fingerprints of a text, by ascending offset; at least one.

    A text shorter than `K` tokens has one, of all its tokens; it is found only by a text that is the same.

    Args:
        namespace: whose secret keys the digests.
        model_fingerprint: hex digest of the model.
        token_ids: 1 to 1,048,576 tokens.

    Raises:
        BadRequestError: no tokens, or too many.
    """
    tokens = check_token_ids(token_ids, MAX_TEXT_TOKENS)
    length = min(K, len(tokens))
    offsets = [0] if len(tokens) < K else _winnowed(run_hashes(tokens, K))
    model = model_fingerprint.encode()

    def digest(gram: bytes) -> bytes:
        message = framed(b"kvquilt k-gram v1", model, gram)
        return hmac.digest(namespace.secret, message, "sha256")[:FINGERPRINT_BYTES]

    raw, size = token_bytes(tokens), 4 * length
    return [(offset, digest(raw[4 * offset : 4 * offset + size])) for offset in offsets]


def pack(found: list[Fingerprint]) -> bytes:
    """Fingerprints of a chunk as a store keeps them: `u16` offset and digest each; at most `MAX_PER_CHUNK`."""
    return b"".join(_RECORD.pack(offset, digest) for offset, digest in found[:MAX_PER_CHUNK])


def unpack(packed: bytes, tokens: int) -> list[Fingerprint]:
    """Fingerprints of a chunk of so many tokens.

    Raises:
        BadRequestError: not what `pack` gives for such a chunk.
    """
    if len(packed) % _RECORD.size or len(packed) > MAX_PER_CHUNK * _RECORD.size:
        raise BadRequestError(
            f"expected at most {MAX_PER_CHUNK} fingerprints of {_RECORD.size} bytes each; got {len(packed)} bytes"
        )
    found: list[Fingerprint] = list(_RECORD.iter_unpack(packed))
    offsets = [-1, *(offset for offset, _ in found), tokens]
    if any(later <= earlier for earlier, later in itertools.pairwise(offsets)):
        raise BadRequestError(f"expected fingerprints at ascending offsets below {tokens}; got {offsets[1:-1][:20]}")
    return found


def _winnowed(hashes: NDArray[np.uint64]) -> list[int]:
    """Places that robust winnowing keeps: ties go to the place kept already, else to the rightmost."""
    window = min(WINDOW, len(hashes))
    # The place below 40 bits of the hash, counted down: the smallest word is the rightmost smallest hash.
    places = np.uint64((1 << 24) - 1) - np.arange(len(hashes), dtype=np.uint64)
    words = sliding_minimum((hashes >> np.uint64(24) << np.uint64(24)) | places, window)
    smallest = words >> np.uint64(24)
    rightmost = ((1 << 24) - 1) - (words & np.uint64((1 << 24) - 1)).astype(np.int64)
    # A place is kept until a window does not hold it or holds a smaller hash: until another run of equal minima begins.
    changes = np.append(np.flatnonzero(smallest[1:] != smallest[:-1]) + 1, len(words))
    following = np.minimum(np.repeat(changes, np.diff(changes, prepend=0)), rightmost + 1).tolist()
    candidates = rightmost.tolist()
    kept: list[int] = []
    at = 0
    while at < len(candidates):
        kept.append(candidates[at])
        at = following[at]
    return kept
