"""A blend's stream, put together: one buffer that the layers are views of."""

from collections.abc import Iterator

import numpy as np

from kvquilt import wire
from kvquilt.types import BlendedKV
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import KVLayout, LayerKV, Part, check_token_ids
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import convert, frames

MAX_KV_BYTES = 64 << 30


class Receiver:
    """Puts a blend's stream together.

    Args:
        first: its first message.

    Raises:
        IntegrityError: what comes is not what the header declares.
    """

    def __init__(self, first: pb.BlendResponse) -> None:
        if not first.HasField("header"):
            raise IntegrityError("expected a header first; the router sent something else")
        header = first.header
        self._fingerprint = header.model_fingerprint
        self._layout = convert.layout_from_wire(header.layout)
        self._token_ids = check_token_ids(list(header.token_ids), wire.MAX_TOKENS)
        tokens = len(self._token_ids) - 1
        if header.kv_tokens != tokens or header.payload_bytes != self._layout.nbytes(tokens):
            raise IntegrityError(f"expected KV of {tokens} tokens; the header declares {header.kv_tokens}")
        self._reader = frames.FrameReader(header.payload_bytes, MAX_KV_BYTES)
        self._buffer = np.empty(header.payload_bytes, np.uint8)
        self._report: pb.BlendReport | None = None

    def take(self, response: pb.BlendResponse) -> None:
        """The next message after the first."""
        if response.HasField("report"):
            self._report = response.report
            return
        begin = self._reader.received
        data = self._reader.take(response.frame)
        self._buffer[begin : begin + len(data)] = np.frombuffer(data, np.uint8)

    def finish(self) -> BlendedKV:
        """The result, when the stream has ended.

        Raises:
            IntegrityError: something is missing.
        """
        self._reader.finish()
        if self._report is None:
            raise IntegrityError("expected a report at the end; the router's stream has none")
        layers = tuple(_layers(self._buffer, self._layout, len(self._token_ids) - 1))
        return BlendedKV(self._fingerprint, self._layout, self._token_ids, layers, wire.report(self._report))


def _layers(buffer: "np.ndarray[tuple[int], np.dtype[np.uint8]]", layout: KVLayout, tokens: int) -> Iterator[LayerKV]:
    """Views of the buffer, which holds `[kv_heads, tokens, dim]` per tensor, as keys and values of each layer."""
    words = buffer.view(layout.data_type.numpy)
    position = 0
    for layer in layout.layers:
        tensors = []
        for part in (Part.KEYS, Part.VALUES):
            _, heads, dim = layer.of(part, tokens)
            size = heads * tokens * dim
            tensors.append(words[position : position + size].reshape(heads, tokens, dim).transpose(1, 0, 2))
            position += size
        yield LayerKV(*tensors)
