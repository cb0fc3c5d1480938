"""Quilts: every token of a prompt in one patch of the right kind, however few patches there may be."""

from collections import Counter
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kvquilt_codec.catalog import ObjectInfo, ObjectMeta
from kvquilt_codec.forms import LOSSLESS
from kvquilt_codec.gate import CONTEXTS
from kvquilt_codec.levels import LOSSLESS_POINT
from kvquilt_codec.types import VariantKind
from kvquilt_router.gate.types import Decision
from kvquilt_router.types import BlendOptions, ChunkRef, Extent
from kvquilt_router.why.quilt import KINDS, quilt
from kvquilt_router.why.types import ChunkRecord, RequestRecord, Served

META = ObjectMeta("0" * 64, (), 1, VariantKind.BASE, LOSSLESS, 0.0, bytes(32), bytes(32), bytes(32))
STORED = ObjectInfo(bytes(32), META, 10, 0.0, 0.0, 0)


@st.composite
def records(draw):
    """Records, and the kind of each of their tokens by a loop."""
    tokens = draw(st.integers(1, 300))
    cuts = sorted(draw(st.sets(st.integers(0, tokens), max_size=12)))
    ids = np.zeros(tokens, np.uint32)
    expected = ["computed"] * tokens
    chunks = []
    for begin, end in list(pairwise(cuts))[:: draw(st.sampled_from([1, 2]))]:
        context = draw(st.sampled_from([*CONTEXTS, ""]))
        ref = ChunkRef(1, begin, ids[begin:end], bytes(32), LOSSLESS_POINT)
        chunks.append(ChunkRecord(ref, "" if context else "not_stored", context, (STORED, 0) if context else None, 0))
        expected[begin:end] = [context or "computed"] * (end - begin)
    first, end = sorted(draw(st.tuples(st.integers(0, tokens), st.integers(0, tokens))))
    extent = draw(st.sampled_from([Extent.PROMPT, Extent.EXACT]))
    recomputed = np.asarray(sorted(draw(st.sets(st.integers(0, tokens - 1), max_size=40))), np.int64)
    if extent is Extent.PROMPT:
        for position in recomputed:
            expected[position] = "computed" if expected[position] == "computed" else "recomputed"
    else:
        expected = [kind if first <= at < end else "computed" for at, kind in enumerate(expected)]
    served = Served(extent, first, end, {}, {}, 0, {}, None, 0.0)
    options = BlendOptions(None, None, LOSSLESS_POINT, 0.3)
    decision = Decision("none", 0.0, None)
    return RequestRecord("a", 0.0, ids, 0, options, decision, tuple(chunks), recomputed, served), expected


@given(records())
def test_each_token_is_in_one_patch_of_its_kind_and_its_chunk(given):
    record, expected = given
    drawn = quilt(record, 1 << 20)
    assert not drawn.merged
    assert [patch.kind for patch in drawn.patches for _ in range(patch.tokens)] == expected
    position = 0
    for patch in drawn.patches:
        assert patch.begin == position
        position += patch.tokens
        owners = [n for n, chunk in enumerate(record.chunks) if chunk.ref.begin <= patch.begin < chunk.ref.end]
        assert owners == ([] if patch.chunk is None else [patch.chunk])
        if owners:
            assert position <= record.chunks[owners[0]].ref.end


@given(records(), st.integers(1, 80))
def test_fewer_patches_have_the_same_tokens_of_each_kind(given, most):
    record, expected = given
    drawn = quilt(record, most)
    assert len(drawn.patches) <= max(most, len(KINDS))
    assert drawn.tokens() == dict(Counter(expected))
    if drawn.merged:
        assert len(quilt(record, 1 << 20).patches) > most
