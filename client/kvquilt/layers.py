"""A stream of KV as the router sends it: what its header says, then layer by layer."""

from collections.abc import Iterator
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import NDArray

from kvquilt import wire
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import Array, KVLayout, LayerShape, Part, TokenIds, check_token_ids
from kvquilt_proto.v1 import router_pb2 as pb
from kvquilt_rpc import convert, frames
from kvquilt_rpc.framing import Framing

MAX_KV_BYTES = 64 << 30

BlendPart = frames.Part[pb.BlendHeader]
"""A message of a blend's stream; a frame is cut off and not parsed, see `framing`."""

_ANSWERS = Framing[pb.BlendHeader](pb.BlendResponse)
_METHOD = f"/{pb.DESCRIPTOR.services_by_name['RouterService'].full_name}/Blend"


def blend_call(channel: grpc.aio.Channel) -> "grpc.aio.UnaryStreamMultiCallable[pb.BlendRequest, BlendPart]":
    """Makes a router's `Blend`."""
    return channel.unary_stream(_METHOD, pb.BlendRequest.SerializeToString, _ANSWERS.parsed)


@dataclass(frozen=True, slots=True, eq=False)
class ArrivedLayer:
    """One layer: keys and values, each `[kv_heads, tokens, dim]`, views of a buffer of its own."""

    index: int
    keys: Array
    values: Array


class LayerStream:
    """Takes a blend's messages one by one.

    Args:
        first: the first message.

    Attributes:
        model_fingerprint: hex digest of the model that the KV is for.
        layout: shapes and element type.
        token_ids: of the whole prompt.
        first_token: KV comes of the tokens from this one on, ...
        kv_tokens: ... up to this one.
        extent: as in the protocol.
        payload_bytes: of KV.
        report: the router's, when it has come.

    Raises:
        IntegrityError: what comes is not what the header declares.
    """

    def __init__(self, first: BlendPart) -> None:
        if not first.HasField("header"):
            raise IntegrityError("expected a header first; the router sent something else")
        header = first.header
        self.model_fingerprint = header.model_fingerprint
        self.layout: KVLayout = convert.layout_from_wire(header.layout)
        self.token_ids: TokenIds = check_token_ids(list(header.token_ids), wire.MAX_TOKENS)
        self.first_token, self.kv_tokens = header.first_token, header.kv_tokens
        self.extent = header.extent
        self.payload_bytes = header.payload_bytes
        self.report: pb.BlendReport | None = None
        # Where the worker has all tokens but the last, or all, nothing is sent.
        last = max(len(self.token_ids) - 1, self.first_token)
        if not 0 <= self.first_token <= self.kv_tokens <= last:
            raise IntegrityError(
                f"expected KV within {len(self.token_ids)} tokens; the header declares {self.first_token} to "
                f"{self.kv_tokens}"
            )
        if header.payload_bytes != self.layout.nbytes(self.tokens):
            raise IntegrityError(
                f"expected {self.layout.nbytes(self.tokens)} bytes for {self.tokens} tokens; the header declares "
                f"{header.payload_bytes}"
            )
        self._reader = frames.FrameReader(header.payload_bytes, MAX_KV_BYTES)
        self._layer = 0
        self._buffer: NDArray[np.uint8] = np.empty(0, np.uint8)
        self._filled = 0

    @property
    def tokens(self) -> int:
        """Tokens whose KV comes."""
        return self.kv_tokens - self.first_token

    def take(self, response: BlendPart) -> Iterator[ArrivedLayer]:
        """The next message after the first; yields the layers that it completes."""
        if isinstance(response, pb.BlendResponse) and response.HasField("report"):
            self.report = response.report
            return
        data = memoryview(self._reader.take(response.frame))
        while len(data):
            shape = self.layout.layers[self._layer]
            if self._filled == 0:
                self._buffer = np.empty(self.layout.nbytes(self.tokens, range(self._layer, self._layer + 1)), np.uint8)
            piece = data[: len(self._buffer) - self._filled]
            self._buffer[self._filled : self._filled + len(piece)] = np.frombuffer(piece, np.uint8)
            self._filled += len(piece)
            data = data[len(piece) :]
            if self._filled == len(self._buffer):
                yield self._arrived(shape)
                self._layer, self._filled = self._layer + 1, 0

    def _arrived(self, shape: LayerShape) -> ArrivedLayer:
        words = self._buffer.view(self.layout.data_type.numpy)
        _, heads, key_dim = shape.of(Part.KEYS, self.tokens)
        keys = words[: heads * self.tokens * key_dim]
        values = words[len(keys) :]
        return ArrivedLayer(
            self._layer, keys.reshape(heads, self.tokens, key_dim), values.reshape(heads, self.tokens, -1)
        )

    def finish(self) -> pb.BlendReport:
        """The report, when the stream has ended.

        Raises:
            IntegrityError: something is missing.
        """
        self._reader.finish()
        if self.report is None:
            raise IntegrityError("expected a report at the end; the router's stream has none")
        return self.report
