"""A profile made ready: token blocks of all layers to payloads and back.

Layers go in the model's order, because a layer may be predicted from those before it. The prediction uses what the
coarsest quality layer gives, so that every level is decoded from the same history.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

import kvquilt_kernels
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint import integers
from kvquilt_codec.joint.exact import Rows, outliers
from kvquilt_codec.joint.integers import Integers
from kvquilt_codec.profile.types import MAX_HISTORY, LayerTransform, Profile
from kvquilt_codec.transform.stages import Rotate, Tensor, Weigh, predict
from kvquilt_codec.types import Array, KVChunk
from kvquilt_kernels.types import Kernels


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    weigh: Weigh
    rotate: Rotate
    transform: LayerTransform

    def prediction(self, history: Sequence[Tensor]) -> Tensor | float:
        """z as the layers before foretell it; 0 for a layer that is coded by itself."""
        return predict(history, self.transform.predictor)


class JointCoder:
    """Encodes and decodes with one profile. Safe from any thread.

    Args:
        profile: as loaded from its file: what is stored there is rounded, and both ends must use the same numbers.
        digest: hex digest of that file.
        kernels: backend; by default the fastest.
    """

    def __init__(self, profile: Profile, digest: str, kernels: Kernels | None = None) -> None:
        self.profile = profile
        self.digest = digest
        self.kernels = kernels or kvquilt_kernels.default()
        self.layers = tuple(_Layer(Weigh(t.mean, t.weight), Rotate(t.basis), t) for t in profile.layers)
        self.step = np.float32(profile.step)
        self.coarse_step = np.float32(profile.step * profile.coarseness(1))

    @property
    def predicts(self) -> bool:
        """Whether a layer needs those before it."""
        return any(layer.transform.predictor is not None for layer in self.layers)

    def exact_rows(self, chunk: KVChunk) -> Rows:
        """The tokens of a chunk that are stored exactly: outliers, and what the integers cannot hold.

        Raises:
            BadRequestError: KV of other shapes, or rotated keys.
        """
        self.profile.check_layout(chunk.layout)
        if chunk.rotated_from is not None:
            raise BadRequestError("expected un-rotated keys: a profile describes keys free of position")
        rows = np.zeros(chunk.tokens, np.bool_)
        for rule in self.profile.outliers:
            keys = _flat32(chunk.keys[rule.layer])
            rows |= outliers(rule, keys - self.profile.layers[rule.layer].mean[: keys.shape[1]])
        limit = self.step * (integers.LARGEST >> 4)
        for layer, k, v in zip(self.layers, chunk.keys, chunk.values, strict=True):
            with np.errstate(over="ignore"):
                z = layer.weigh.forward(joined(k, v))
                rows |= ~(np.abs(z).sum(axis=1) < limit)
        return rows

    def encode_block(self, layers: Sequence[Tensor], exact: Rows) -> list[list[bytes]]:
        """Encode a token block.

        Args:
            layers: per layer x `[tokens, channels]`.
            exact: tokens that are stored elsewhere; here they cost next to nothing.

        Returns:
            Per layer the payloads of its quality layers, the coarsest first.
        """
        quality = self.profile.quality
        history: list[Tensor] = []
        encoded: list[list[bytes]] = []
        for index, (layer, x) in enumerate(zip(self.layers, layers, strict=True)):
            x = np.where(exact[:, None], layer.transform.mean, x)
            predicted = layer.prediction(history)
            y = layer.rotate.forward(layer.weigh.forward(x) - predicted)
            fine = (
                np.rint(y * np.float32(1 / self.profile.step))
                .clip(-integers.LARGEST, integers.LARGEST)
                .astype(np.int32)
            )
            fine[exact] = 0
            nested = integers.nested(fine, len(quality))
            payloads = [integers.encode_base(self.kernels, nested[0], quality[0], index)]
            payloads.extend(
                integers.encode_refinement(self.kernels, nested[depth], nested[depth - 1], quality[depth], index)
                for depth in range(1, len(quality))
            )
            encoded.append(payloads)
            if self.predicts:
                history = [self.coarse(layer, nested[0], predicted), *history[: MAX_HISTORY - 1]]
        return encoded

    def coarse(self, layer: _Layer, base: Integers, predicted: Tensor | float) -> Tensor:
        """z of a layer from its coarsest integers."""
        z: Tensor = layer.rotate.inverse(base.astype(np.float32) * self.coarse_step) + predicted
        return z


@dataclass(slots=True, eq=False)
class _State:
    """A layer of a block between its base and its last refinement: integers of both, and z of the base."""

    base: Integers
    z: Tensor
    finest: Integers
    depth: int


class BlockDecoder:
    """Decodes the layers of one token block, fed in the container's order.

    Args:
        coder: the container's profile, made ready.
        tokens: of this block.
    """

    def __init__(self, coder: JointCoder, tokens: int) -> None:
        self._coder = coder
        self._tokens = tokens
        self._history: list[Tensor] = []
        self._states: dict[int, _State] = {}

    def base(self, layer: int, payload: bytes | memoryview) -> None:
        """Take a layer's coarsest integers; with a predicting profile, every layer from 0 on, in order.

        Raises:
            IntegrityError: a malformed payload.
        """
        coder, prepared = self._coder, self._coder.layers[layer]
        found = integers.decode_base(coder.kernels, payload, self._tokens, coder.profile.quality[0], layer)
        z = coder.coarse(prepared, found, prepared.prediction(self._history))
        if coder.predicts:
            self._history = [z, *self._history[: MAX_HISTORY - 1]]
        self._states[layer] = _State(found, z, found, 1)

    def refine(self, layer: int, payload: bytes | memoryview) -> None:
        """Take a layer's next quality layer.

        Raises:
            IntegrityError: a malformed payload.
        """
        state, coder = self._states[layer], self._coder
        tables = coder.profile.quality[state.depth]
        state.finest = integers.decode_refinement(coder.kernels, payload, state.finest, tables, layer)
        state.depth += 1

    def drop(self, layer: int) -> None:
        """Forget a layer that nobody asked for; what it foretells of later ones is kept."""
        del self._states[layer]

    def finish(self, layer: int, keys: Array, values: Array) -> None:
        """Write a layer into keys and values `[tokens, kv_heads, dim]`, and forget it."""
        state, coder, prepared = self._states.pop(layer), self._coder, self._coder.layers[layer]
        z = state.z
        if state.depth > 1:
            step = np.float32(coder.profile.step * coder.profile.coarseness(state.depth))
            rest = (state.finest - state.base * 3 ** (state.depth - 1)).astype(np.float32)
            z = z + prepared.rotate.inverse(rest * step)
        x = prepared.weigh.inverse(z)
        largest = np.float32(ml_dtypes.finfo(keys.dtype).max)
        np.clip(x, -largest, largest, out=x)
        split = keys[0].size
        keys[...] = x[:, :split].reshape(keys.shape).astype(keys.dtype)
        values[...] = x[:, split:].reshape(values.shape).astype(values.dtype)


def joined(keys: Array, values: Array) -> Tensor:
    """x of a layer: keys and values side by side, `[tokens, channels]` in float32."""
    x: Tensor = np.concatenate([_flat32(keys), _flat32(values)], axis=1)
    return x


def _flat32(tensor: Array) -> Tensor:
    flat: Tensor = tensor.reshape(len(tensor), -1).astype(np.float32)
    return flat
