"""A blend's stream of a whole prompt, put together."""

import numpy as np

from kvquilt import wire
from kvquilt.layers import BlendPart, LayerStream
from kvquilt.types import BlendedKV
from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.types import LayerKV, Part


class Receiver:
    """Puts a blend's stream together.

    Args:
        first: its first message.

    Raises:
        IntegrityError: what comes is not what the header declares.
    """

    def __init__(self, first: BlendPart) -> None:
        self._stream = LayerStream(first)
        tokens = len(self._stream.token_ids) - 1
        if (self._stream.first_token, self._stream.kv_tokens) != (0, tokens):
            raise IntegrityError(
                f"expected KV of the first {tokens} tokens; the header declares {self._stream.first_token} to "
                f"{self._stream.kv_tokens}"
            )
        self._layers: list[LayerKV] = []

    def take(self, response: BlendPart) -> None:
        """The next message after the first."""
        for layer in self._stream.take(response):
            self._layers.append(LayerKV(layer.keys.transpose(1, 0, 2), layer.values.transpose(1, 0, 2)))

    def finish(self) -> BlendedKV:
        """The result, when the stream has ended.

        Raises:
            IntegrityError: something is missing.
        """
        stream, report = self._stream, wire.report(self._stream.finish())
        if stream.tokens == 0:  # a prompt of one token
            none = stream.layout.data_type.numpy
            for shape in stream.layout.layers:
                keys, values = (np.empty(shape.of(part, 0), none) for part in (Part.KEYS, Part.VALUES))
                self._layers.append(LayerKV(keys, values))
        return BlendedKV(stream.model_fingerprint, stream.layout, stream.token_ids, tuple(self._layers), report)
