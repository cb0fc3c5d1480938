"""Stored text is shown only to whom it belongs, and of many candidates only so many are read."""

import numpy as np

from kvquilt_codec.catalog import ChunkMatch, ObjectInfo, ObjectMeta
from kvquilt_codec.container import Description
from kvquilt_codec.fingerprints import fingerprints
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.identity import Namespace, chunk_key, context_digest
from kvquilt_codec.levels import LOSSLESS_POINT
from kvquilt_codec.traces import Trace
from kvquilt_codec.types import VariantKind
from kvquilt_router.gate.types import Decision
from kvquilt_router.planning import Planner
from kvquilt_router.types import BlendOptions
from kvquilt_router.why.nearest import CANDIDATES, MAX_READ, Nearest
from kvquilt_router.why.types import ChunkRecord, RequestRecord

MODEL = "ab" * 32
OURS, THEIRS = Namespace("ours", b"o" * 32), Namespace("theirs", b"t" * 32)
RNG = np.random.default_rng(0)
TEXT = RNG.integers(0, 500, 100).astype(np.uint32)


class Nodes:
    """Nodes that say of every fingerprint that some stored texts have it, and give those texts."""

    def __init__(self, stored):
        self.traces = self
        self.stored = stored
        self.described = 0

    async def find_chunks(self, digests, fingerprint, *, deadline):
        return [ChunkMatch(n, key, 0, len(tokens)) for n in range(len(digests)) for key, tokens in self.stored.items()]

    async def trace(self, places, *, deadline):
        objects = {}
        for place in places:
            tokens = len(self.stored[place.chunk_key])
            digests = (place.chunk_key, context_digest(TEXT[:0]), context_digest(TEXT[:0]))
            meta = ObjectMeta(MODEL, (), tokens, VariantKind.BASE, LOSSLESS, 0.0, *digests)
            objects[place.chunk_key] = [ObjectInfo(place.chunk_key, meta, 1, 0.0, 0.0, 0)]
        return Trace(objects, {}, frozenset())

    async def describe(self, ref, fingerprint, *, deadline):
        self.described += 1
        return Description(None, self.stored[ref.chunk_key])


def record(*texts):
    planner = Planner(OURS, MODEL, 512)
    chunks, begin = [], 0
    for segment, text in enumerate(texts, start=1):
        chunks.append(ChunkRecord(planner.chunk(text, LOSSLESS_POINT, segment, begin), "not_stored", "", None, 0))
        begin += len(text)
    options = BlendOptions(None, None, LOSSLESS_POINT, 0.3)
    return RequestRecord("", None, np.concatenate(texts), 0, options, Decision("none", 0.0, None), tuple(chunks))


async def explained(nodes, *texts):
    request = record(*texts)
    nearest = Nearest(nodes, Planner(OURS, MODEL, 512), lambda tokens: str(tokens.tolist()), request, deadline=1.0)
    return await nearest.explain(range(len(texts)))


async def test_text_of_another_namespace_is_not_shown_though_a_node_sends_it():
    edited = TEXT.copy()
    edited[50] += 1
    assert fingerprints(OURS, MODEL, TEXT) != fingerprints(THEIRS, MODEL, TEXT)
    for namespace, cause in ((OURS, "edited"), (Namespace.public(), "edited"), (THEIRS, "never_stored")):
        told = (await explained(Nodes({chunk_key(namespace, MODEL, TEXT): TEXT}), edited))[0]
        assert told.cause == cause
        assert (told.divergence is not None) == (cause == "edited")


async def test_so_many_stored_chunks_are_read_for_one_request_and_the_rest_is_not_called_never_stored():
    stored = [RNG.integers(0, 500, 20).astype(np.uint32) for _ in range(CANDIDATES)]
    same = Nodes({chunk_key(OURS, MODEL, text): text for text in stored})
    await explained(same, *(RNG.integers(0, 500, 20).astype(np.uint32) for _ in range(40)))
    assert same.described == CANDIDATES, "each is read once"

    class Many(Nodes):
        """Each fingerprint has a stored text of its own."""

        async def find_chunks(self, digests, fingerprint, *, deadline):
            keys = list(self.stored)
            return [ChunkMatch(n, keys[n % len(keys)], 0, 20) for n in range(len(digests))]

    stored = [RNG.integers(0, 500, 20).astype(np.uint32) for _ in range(MAX_READ + 40)]
    many = Many({chunk_key(OURS, MODEL, text): text for text in stored})
    told = await explained(many, *(RNG.integers(0, 500, 16).astype(np.uint32) for _ in range(MAX_READ + 40)))
    assert many.described == MAX_READ
    assert [told[n].detail for n in range(MAX_READ, MAX_READ + 40)] == ["too_many_chunks"] * 40
