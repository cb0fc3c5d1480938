"""A profile made ready: token blocks of all layers to payloads and back.

Layers go in the model's order, because a layer may be predicted from those before it.
"""

import itertools
from collections.abc import Sequence

import ml_dtypes
import numpy as np

import kvquilt_kernels
from kvquilt_codec.errors import BadRequestError
from kvquilt_codec.joint import integers
from kvquilt_codec.joint.exact import Rows, outliers
from kvquilt_codec.joint.layer import Design, History, make_layers
from kvquilt_codec.profile.types import Profile
from kvquilt_codec.transform.stages import Tensor
from kvquilt_codec.types import Array, CodecId, KVChunk, LayerKV
from kvquilt_kernels.types import Kernels


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
        self.layers = make_layers(profile.layers, Design(profile.step, len(profile.quality)), self.kernels)

    @property
    def predicts(self) -> bool:
        """Whether a layer needs those before it."""
        return any(layer.transform.predictor is not None for layer in self.layers)

    def codec_id(self, quality_layer: int) -> CodecId:
        """The codec of the profile's sections."""
        if quality_layer:
            return CodecId.REFINEMENT
        return CodecId.JOINT_PREDICTED if self.predicts else CodecId.JOINT

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
        limit = np.float32(self.profile.step) * (integers.LARGEST >> 4)
        for layer, k, v in zip(self.layers, chunk.keys, chunk.values, strict=True):
            with np.errstate(over="ignore"):
                rows |= ~(np.abs(layer.weigh(joined(k, v))).sum(axis=1) < limit)
        return rows

    def encode_block(self, layers: Sequence[Tensor], exact: Rows) -> list[list[bytes]]:
        """Encode a token block.

        Args:
            layers: per layer x `[tokens, channels]`.
            exact: tokens that are stored elsewhere; here they cost next to nothing.

        Returns:
            Per layer the payloads of its quality layers, the coarsest first.
        """
        tables = self.profile.quality
        history: History = []
        encoded: list[list[bytes]] = []
        for index, (layer, x) in enumerate(zip(self.layers, layers, strict=True)):
            found = layer.quantise(layer.forward(np.where(exact[:, None], layer.transform.mean, x)), history, exact)
            payloads = [integers.encode_base(self.kernels, found.nested[0], tables[0], index)]
            for depth, (coarse, fine) in enumerate(itertools.pairwise(found.nested), 1):
                payloads.append(integers.encode_refinement(self.kernels, fine, coarse, tables[depth], index))
            encoded.append(payloads)
        return encoded


class BlockDecoder:
    """Decodes the layers of one token block, in their order.

    Args:
        coder: the container's profile, made ready.
        tokens: of this block.
    """

    def __init__(self, coder: JointCoder, tokens: int) -> None:
        self._coder = coder
        self._tokens = tokens
        self._history: History = []

    def decode(self, index: int, payloads: Sequence[bytes | memoryview], out: LayerKV | None) -> None:
        """Decode a layer.

        Args:
            index: of the layer; with a predicting profile, every layer from 0 on must have been decoded before.
            payloads: of its first quality layers, the coarsest first.
            out: its keys and values of this block, `[tokens, kv_heads, dim]`; None for a layer that nobody asked
                for: it only foretells later ones.

        Raises:
            IntegrityError: a malformed payload.
        """
        coder, layer = self._coder, self._coder.layers[index]
        tables, kernels = coder.profile.quality, coder.kernels
        predicted = layer.predict(self._history)
        known = [integers.decode_base(kernels, payloads[0], self._tokens, tables[0], index)]
        for depth, payload in enumerate(payloads[1:], 1):
            known.append(integers.decode_refinement(kernels, payload, known[-1], tables[depth], index))
        if coder.predicts:
            layer.enter(self._history, predicted, known[0])
        if out is not None:
            split_into(layer.inverse(layer.dequantise(predicted, known)), out.keys, out.values)


def joined(keys: Array, values: Array) -> Tensor:
    """x of a layer: keys and values side by side, `[tokens, channels]` in float32."""
    x: Tensor = np.concatenate([_flat32(keys), _flat32(values)], axis=1)
    return x


def split_into(x: Tensor, keys: Array, values: Array) -> None:
    """Undo `joined`, rounding to the type of keys and values; what it cannot hold becomes its largest number."""
    largest = np.float32(ml_dtypes.finfo(keys.dtype).max)
    np.clip(x, -largest, largest, out=x)
    cut = keys[0].size
    keys[...] = x[:, :cut].reshape(keys.shape)
    values[...] = x[:, cut:].reshape(values.shape)


def _flat32(tensor: Array) -> Tensor:
    flat: Tensor = tensor.reshape(len(tensor), -1).astype(np.float32)
    return flat
