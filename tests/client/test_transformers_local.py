"""A cache without any server: its store, its end, and what it says of itself."""

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kvquilt import Document
from kvquilt.errors import BadRequestError, UnavailableError, UnsupportedModelError
from kvquilt.integrations.transformers import Extent, KvquiltCache
from tests.client.generating import answers, plainly, tokens
from tests.docs.pages import ROOT
from tests.router.families import SUPPORTED, tiny

FIRST, SECOND, QUESTION = tokens(1, 70), tokens(2, 70), tokens(3, 9)
DOCUMENTS = [Document("first", FIRST), Document("second", SECOND)]


@pytest.fixture(scope="module")
def model():
    model = tiny(*SUPPORTED["llama"])
    model.generation_config.eos_token_id = None
    return model


def opened(model, path, **options):
    return KvquiltCache.local(model, None, path, profile="", warm_up_passages=0, extent=Extent.PROMPT, **options)


def socket_of(cache):
    return Path(cache.client.target.removeprefix("unix:"))


def test_what_is_stored_is_found_by_the_next_process(model, tmp_path):
    for stored in (2, 0):
        with opened(model, tmp_path) as cache:
            assert sum(done.stored for done in cache.client.prefetch(DOCUMENTS)) == stored
            report = cache.fill([FIRST, QUESTION]).report
            assert report.hit
            assert report.fetched_bytes > 0


def test_a_second_process_is_told_that_the_store_is_taken_and_what_to_do(model, tmp_path):
    with opened(model, tmp_path):
        with pytest.raises(UnavailableError, match=r"choose another path, or .*kvquilt serve") as caught:
            opened(model, tmp_path)
        assert caught.value.reason == "store_locked"
        with opened(model, tmp_path / "other") as other:
            assert other.client.models()


def test_only_this_user_reaches_the_servers_and_they_end_with_the_cache(model, tmp_path):
    cache = opened(model, tmp_path)
    folder = socket_of(cache).parent
    assert folder.stat().st_mode & 0o777 == 0o700
    cache.close()
    cache.close()
    assert not folder.exists()
    filled = cache.fill([FIRST, QUESTION])
    assert filled.fallback_reason == "closed"
    assert answers(model, filled) == [plainly(model, [FIRST, QUESTION])]


_SCRIPT = """
from tests.client.test_transformers_local import DOCUMENTS, SUPPORTED, opened, socket_of, tiny
cache = opened(tiny(*SUPPORTED["llama"]), {path!r})
print(socket_of(cache).parent, sum(done.stored for done in cache.client.prefetch(DOCUMENTS)))
"""


def test_a_script_that_closes_nothing_ends_cleanly_and_its_store_is_whole(model, tmp_path):
    command = [sys.executable, "-c", _SCRIPT.format(path=str(tmp_path))]
    found = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=found, capture_output=True, text=True, check=True, timeout=600)
    folder, stored = done.stdout.split()
    assert stored == "2"
    assert not Path(folder).exists()
    assert "Traceback" not in done.stderr
    assert "destroyed" not in done.stderr
    with opened(model, tmp_path) as cache:
        assert [done.present for done in cache.client.prefetch(DOCUMENTS)] == [1, 1]


def test_the_store_keeps_to_its_cap(model, tmp_path):
    with opened(model, tmp_path, capacity="200KiB") as cache:
        documents = [Document(str(seed), tokens(seed, 70)) for seed in range(10)]
        assert sum(done.stored for done in cache.client.prefetch(documents, level="lossless")) == len(documents)
        (node,) = cache.client.status().nodes
        assert node.capacity_bytes == 200 << 10
        assert 0 < node.objects < len(documents)
        assert node.used_bytes <= node.capacity_bytes


def test_without_a_gate_chunks_are_used_in_their_exact_context_only_and_it_says_so(model, tmp_path, caplog):
    with caplog.at_level(logging.WARNING), opened(model, tmp_path) as cache:
        assert any(
            "exact context only" in record.message and "calibrate" in record.message for record in caplog.records
        )
        list(cache.client.prefetch(DOCUMENTS, level="lossless"))
        prompt = [SECOND, FIRST, QUESTION]
        filled = cache.fill(prompt, level="lossless")
        assert [chunk.miss_reason for chunk in filled.report.chunks] == ["", "gate_closed"]
        assert filled.gate_refusal == "no_gate"
        assert answers(model, filled) == [plainly(model, prompt)]


def test_another_thread_may_use_the_model_while_a_fill_computes_with_it(model, tmp_path):
    with opened(model, tmp_path, ungated=True) as cache:
        list(cache.client.prefetch(DOCUMENTS))
        expected = plainly(model, [FIRST, QUESTION])
        seen, stop = [], threading.Event()

        def use():
            while not stop.is_set():
                seen.append(plainly(model, [FIRST, QUESTION]))

        other = threading.Thread(target=use)
        other.start()
        try:
            # A policy that hooks into the model's layers, and one that looks at its attention.
            for policy in ("deviation", "question-deviation") * 3:
                report = cache.fill([SECOND, FIRST, QUESTION], policy=policy, recompute_ratio=0.5).report
                assert report.tokens_recomputed > 0
        finally:
            stop.set()
            other.join()
        assert seen
        assert all(answer == expected for answer in seen)


def test_what_cannot_be_opened_is_refused_with_advice(model, tmp_path):
    for options, words in (
        ({"capacity": "much"}, "capacity"),
        ({"no_such_setting": 1}, "no_such_setting"),
        ({"policy": "nope"}, "first-tokens"),
    ):
        with pytest.raises(BadRequestError, match=words):
            opened(model, tmp_path, **options)
    with pytest.raises(BadRequestError, match=r"model\.eval\(\)"):
        opened(tiny(*SUPPORTED["llama"]).train(), tmp_path)
    flash = tiny(*SUPPORTED["llama"])
    flash.config._attn_implementation = "flash_attention_2"
    with pytest.raises(UnsupportedModelError, match="sdpa"):
        opened(flash, tmp_path)
    spread = tiny(*SUPPORTED["llama"])
    spread.hf_device_map = {"model.embed_tokens": 0, "lm_head": 1}
    with pytest.raises(UnsupportedModelError, match="one device"):
        opened(spread, tmp_path)
    with opened(model, tmp_path) as cache:  # none of them has left the store open
        assert cache.client.models()
