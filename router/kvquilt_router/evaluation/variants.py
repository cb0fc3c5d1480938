"""The KV of a case's chunks, computed after different contexts, and how far it depends on them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kvquilt_codec.catalog import ContextSource
from kvquilt_codec.types import KVChunk, TokenIds, VariantKind
from kvquilt_router.assembly import PlacedChunk
from kvquilt_router.dependence import dependence
from kvquilt_router.engine import Engine
from kvquilt_router.engine.kv import LayerTensors
from kvquilt_router.evaluation.types import ALONE, BASE, EMPTY, EXACT, HALF_PAIR, PAIR, WARM
from kvquilt_router.selection import ReusedChunk
from kvquilt_router.types import Prompt

Codec = Callable[[KVChunk], KVChunk]
"""What comes back of a chunk that is stored and read again."""


@dataclass(frozen=True, slots=True, eq=False)
class Context:
    """Tokens, and their KV from position 0 on."""

    token_ids: TokenIds
    layers: Sequence[LayerTensors]
    parts: tuple[int, ...] = ()
    """How many tokens of the shared prefix it begins with, and of every passage after it."""

    @classmethod
    def computed(cls, engine: Engine, *parts: TokenIds) -> "Context":
        """Prefill the parts, one after the other."""
        token_ids = np.concatenate([EMPTY, *parts]).astype(np.uint32)
        return cls(token_ids, engine.prefill(token_ids) if len(token_ids) else [], tuple(map(len, parts)))

    @property
    def passages(self) -> list[tuple[int, int]]:
        """Begin and end of every part but the shared prefix."""
        ends = np.cumsum(self.parts).tolist()
        return list(pairwise(ends))


class Variants:
    """Variants of one prompt's chunks, each computed once.

    Args:
        engine: computes.
        prompt: whose documents are the chunks.
        full: the prompt's KV after a full prefill, one token short.
        prefix: its shared prefix, computed.
        warm_ups: the shared prefix and passages after it, by name.
        codecs: by level.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        full: Sequence[LayerTensors],
        prefix: Context,
        warm_ups: Mapping[str, Context],
        codecs: Mapping[str, Codec] | None = None,
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._full = full
        self._contexts = {BASE: prefix, ALONE: Context(EMPTY, [])}
        self._warm_ups = warm_ups
        self._codecs: Mapping[str, Codec] = {"": lambda chunk: chunk, **(codecs or {})}
        self._computed: dict[tuple[str, int], KVChunk] = {}
        self._coded: dict[tuple[str, int, str], KVChunk] = {}
        self._dependence: dict[tuple[str, str, int], NDArray[np.float32]] = {}
        self._observed: dict[tuple[str, str, int], ReusedChunk] = {}
        lengths = [len(prompt.prefix), *map(len, prompt.documents)]
        self._begins = np.cumsum(lengths)[:-1].tolist()

    def placed(self, variant: str, level: str = "", warm_up: str = "", *, observed: bool = False) -> list[PlacedChunk]:
        """Every chunk at its place. The shared prefix and the first chunk are exact, whatever the variant.

        Args:
            variant: of the others.
            level: of the codec that they went through.
            warm_up: name of the passages of `warm` chunks.
            observed: say also how much attention each token gave to its former context, which costs a further prefill.
        """
        chunks = []
        if len(self._prompt.prefix):
            whole = self._engine.to_chunk(self._prompt.prefix, self._contexts[BASE].layers, 0, unrotate=False)
            place = ReusedChunk(0, len(self._prompt.prefix), kind=VariantKind.EXACT)
            chunks.append(PlacedChunk(whole, place, exact=True))
        for index in range(len(self._prompt.documents)):
            name = (PAIR if index % 2 else BASE) if variant == HALF_PAIR else variant
            chunk = self._placed(EXACT if index == 0 else name, level, warm_up, index)
            if observed and not chunk.exact and name in (PAIR, WARM):
                chunk = replace(chunk, place=self._with_attention(chunk.place, name, warm_up, index))
            chunks.append(chunk)
        return chunks

    def _placed(self, variant: str, level: str, warm_up: str, index: int) -> PlacedChunk:
        begin = self._begins[index]
        end, key = begin + len(self._prompt.documents[index]), self._key(index)
        chunk = self._through(variant, warm_up, index, level)
        if variant == EXACT:
            return PlacedChunk(chunk, ReusedChunk(begin, end, key, VariantKind.EXACT), exact=True)
        depends = self._depends(variant, warm_up, index)
        return PlacedChunk(chunk, ReusedChunk(begin, end, key, dependence=depends), exact=False)

    def _depends(self, variant: str, warm_up: str, index: int) -> NDArray[np.float32] | None:
        # What a chunk without other text before it would change with some is estimated by the passages that are named;
        # without any nothing is known, as of a chunk that is stored like that.
        if variant not in (PAIR, WARM) and not warm_up:
            return None
        other = variant if variant in (PAIR, WARM) else WARM
        key = (other, warm_up if other == WARM else "", index)
        if key not in self._dependence:
            values = self._chunk(other, warm_up, index).values
            self._dependence[key] = dependence(values, self._chunk(BASE, "", index).values)
        return self._dependence[key]

    def _with_attention(self, place: ReusedChunk, variant: str, warm_up: str, index: int) -> ReusedChunk:
        key = (variant, warm_up if variant == WARM else "", index)
        if key not in self._observed:
            before = self._context(variant, warm_up, index)
            spans = before.passages
            _, sums = self._engine.prefill_observed(self._prompt.documents[index], before.layers, spans)
            keys = (
                [self._key(index - 1)] if variant == PAIR else [sha256(b"%d" % n).digest() for n in range(len(spans))]
            )
            sources = tuple(
                ContextSource(name, end - begin, float(inter.sum()))
                for name, (begin, end), inter in zip(keys, spans, sums.inter, strict=True)
            )
            self._observed[key] = replace(
                place, inter=sums.inter.sum(0), sources=sources, intra=float(sums.intra.sum())
            )
        return self._observed[key]

    def _key(self, index: int) -> bytes:
        return sha256(self._prompt.documents[index].tobytes()).digest()

    def _through(self, variant: str, warm_up: str, index: int, level: str) -> KVChunk:
        key = (variant + warm_up, index, level)
        if key not in self._coded:
            self._coded[key] = self._codecs[level](self._chunk(variant, warm_up, index))
        return self._coded[key]

    def _chunk(self, variant: str, warm_up: str, index: int) -> KVChunk:
        key = (variant + warm_up if variant == WARM else variant, index)
        if key not in self._computed:
            self._computed[key] = self._compute(variant, warm_up, index)
        return self._computed[key]

    def _compute(self, variant: str, warm_up: str, index: int) -> KVChunk:
        document, begin = self._prompt.documents[index], self._begins[index]
        if variant == EXACT:
            cut = slice(begin, begin + len(document))
            layers = [LayerTensors(layer.keys[:, :, cut], layer.values[:, :, cut]) for layer in self._full]
            return self._engine.to_chunk(document, layers, begin, unrotate=True)
        before = self._context(variant, warm_up, index)
        layers = self._engine.prefill(document, before.layers)
        return self._engine.to_chunk(document, layers, len(before.token_ids), unrotate=True)

    def _context(self, variant: str, warm_up: str, index: int) -> Context:
        if variant == WARM:
            return self._warm_ups[warm_up]
        if variant == PAIR:
            return Context.computed(self._engine, self._prompt.prefix, self._prompt.documents[index - 1])
        return self._contexts[variant]
