"""Short chunks share forward passes, and come out as they would alone."""

import numpy as np
import pytest

from kvquilt import Client, Document
from kvquilt_codec.forms import StorageForm
from kvquilt_codec.identity import Namespace
from kvquilt_codec.levels import OperatingPoint
from kvquilt_codec.types import Level, VariantKind
from kvquilt_router.computing import VariantComputer, VariantJob
from kvquilt_router.engine import Engine
from kvquilt_router.engine.model import prepare
from kvquilt_router.packs import PACKED_TOKENS, PASS_TOKENS, packs
from kvquilt_router.planning import Planner
from tests.router.families import SUPPORTED, tiny
from tests.stack import serve

POINT = OperatingPoint(Level.HIGH, StorageForm(Level.HIGH))
PREFIX = np.arange(10, 15, dtype=np.uint32)
WARM = np.arange(100, 140, dtype=np.uint32)


@pytest.fixture(scope="module")
def planner():
    return Planner(Namespace.public(), "f" * 64, 64)


def job(planner, length, seed, sources=(WARM,)):
    tokens = np.random.default_rng(seed).integers(3, 500, length).astype(np.uint32)
    kind = VariantKind.WARM if sources else VariantKind.BASE
    return VariantJob(planner.chunk(tokens, POINT, 1, 0), kind, PREFIX, tuple(sources))


@pytest.mark.parametrize("family", ["llama", "gemma2", "qwen3"])
@pytest.mark.parametrize("sources", [(WARM,), ()], ids=["warm", "base"])
def test_packed_variants_are_what_they_are_alone(planner, family, sources):
    engine = Engine(tiny(*SUPPORTED[family]))
    jobs = [job(planner, length, seed, sources) for seed, length in enumerate((20, 33, 7))]
    alone, packed = VariantComputer(engine, planner), VariantComputer(engine, planner)
    for found, expected in zip(packed.compute_packed(jobs), map(alone.compute, jobs), strict=True):
        for ours, theirs in zip(
            (*found.kv.keys, *found.kv.values), (*expected.kv.keys, *expected.kv.values), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())
        assert found.sources == expected.sources
        assert (found.side is None) == (expected.side is None) == (not sources)
        if found.side is not None:
            np.testing.assert_allclose(found.side.dependence, expected.side.dependence, atol=1e-3)


def test_passes_hold_short_chunks_of_one_context_and_no_more_tokens_than_they_may(planner):
    short = [job(planner, 60, seed) for seed in range(20)]
    others = [job(planner, 60, 50 + seed, ()) for seed in range(2)]
    long = job(planner, PACKED_TOKENS + 1, 99)
    shared = packs([*short, *others, long])
    assert id(long) not in shared
    assert {id(other) for other in others} == {id(j) for j in shared[id(others[0])]}
    for one in short:
        together = shared[id(one)]
        assert one in together
        assert all(member in short for member in together)
        assert sum(len(member.ref.token_ids) for member in together) <= PASS_TOKENS


def test_many_short_documents_are_stored_each_under_its_own_id(tmp_path):
    model = prepare(tiny(*SUPPORTED["llama"]), None, "tiny")
    rng = np.random.default_rng(0)
    documents = [Document(f"d{i}", rng.integers(3, 500, 30).tolist()) for i in range(20)]
    documents.append(Document("copy", documents[3].content))
    with serve(model, tmp_path, background=False) as router, Client(router) as client:
        done = list(client.prefetch(documents, shared_prefix=[5, 6, 7]))
        assert [item.document_id for item in done] == [document.document_id for document in documents]
        assert sum(item.stored for item in done) == 20 + 1, "and the shared prefix, once"
        assert all(item.failed == 0 for item in done)
        report = client.blend([documents[i].content for i in (7, 2, 20)] + [[9, 9]], shared_prefix=[5, 6, 7]).report
        assert report.hit
        assert client.forget("copy").objects_kept_shared == 1
        again = list(client.prefetch(documents, shared_prefix=[5, 6, 7]))
        assert sum(item.stored for item in again) == 0
