"""`kvquilt demo` as a user calls it, on a tiny model with a real tokenizer: what it measures, and what it leaves."""

import json
import os
import signal
import subprocess
import sys

import pytest
from transformers import AutoTokenizer

from kvquilt.demo.corpus import QUESTIONS
from kvquilt.demo.rows import CONVERSATION, NEW_ORDER, SAME_PREFIX
from kvquilt_codec.gate import Gate, GatePoint
from kvquilt_codec.gate import file as gate_file
from kvquilt_codec.profile import file as profile_file
from kvquilt_router.engine.model import resolve
from tests.e2e.commands import answer, kvquilt
from tests.router.families import tiny
from tests.texts import PASSAGES

CASES = [*[NEW_ORDER] * len(QUESTIONS), SAME_PREFIX, CONVERSATION]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny("LlamaConfig", {"vocab_size": 49152}).save_pretrained(folder)
    AutoTokenizer.from_pretrained(resolve("smollm2")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def profile(model, tmp_path_factory):
    """A profile from few texts, and a gate made by hand."""
    folder = tmp_path_factory.mktemp("texts")
    for number, text in enumerate(PASSAGES):
        (folder / f"{number}.txt").write_text(text)
    path = folder / "out" / "tiny.safetensors"
    options = ("--texts", folder, "--quality-layers", "2", "--gate-cases", "0", "--output", path)
    (report,) = answer("calibrate", model, *options)
    points = [
        GatePoint(policy, ratio, context, level, 4, 0.02, 0.2, 0.9, 0.2)
        for level in ("high", "medium")
        for policy, ratio, context in (("none", 0.0, "exact"), ("question-deviation", 0.15, "warm"))
    ]
    fingerprint = profile_file.load(path.read_bytes()).model_fingerprint
    gate = Gate(fingerprint, report["digest"], 16, 0.95, 0.9, "made by hand", tuple(points))
    gate_file.beside(path).write_bytes(gate_file.dump(gate))
    return path


def test_every_case_is_asked_before_and_after_a_restart_and_summed_up(model, profile, tmp_path):
    options = ("--model", model, "--profile", profile, "--max-tokens", "6", "--output", tmp_path / "demo.json")
    shown = kvquilt("demo", *options).stdout
    figures = json.loads((tmp_path / "demo.json").read_text())
    assert (figures["name"], figures["conditions"]["measured"]) == ("demo", "given")
    rows = figures["rows"]
    before, after = rows[: len(CASES)], rows[len(CASES) :]
    for found, restarted in ((before, False), (after, True)):
        assert [(row["case"], row["restarted"]) for row in found] == [(case, restarted) for case in CASES]
    for row in rows:
        assert row["prompt_tokens"] >= 1500
        assert (row["chunks_missed"], row["gate_refusal"]) == (0, "")
        assert row["answer_kl"] >= 0
        assert 0 <= row["top1_agreement"] <= 1
        assert " ".join(row["question"].split()) in " ".join(shown.split())
        if row["case"] == NEW_ORDER:
            assert (row["policy"], row["recompute_ratio"], row["predicted_kl"]) == ("question-deviation", 0.15, 0.2)
            assert 0 < row["tokens_recomputed"] < row["tokens_reused"]
            assert 0 < row["bytes_fetched"] < row["bytes_bf16"]
        else:
            assert row["tokens_exact"] > 0.75 * row["prompt_tokens"]
            assert row["tokens_reused"] == row["tokens_recomputed"] == 0
    # Stored KV is what it was: the same blend gives the same distribution after the restart.
    kl = [[row["first_token_kl"] for row in found] for found in (before, after)]
    assert kl[0] == pytest.approx(kl[1], rel=1e-3, abs=1e-9)
    high, medium = figures["levels"]
    assert (high["level"], medium["level"]) == ("high", "medium")
    assert medium["bytes_fetched"] < high["bytes_fetched"] == rows[0]["bytes_fetched"]
    assert high["first_token_kl"] == pytest.approx(rows[0]["first_token_kl"], rel=1e-3, abs=1e-9)
    for name in ("summary", "summary_restarted"):
        assert [(s["case"], s["questions"]) for s in figures[name]] == [
            (case, CASES.count(case)) for case in (NEW_ORDER, SAME_PREFIX, CONVERSATION)
        ]


def test_ctrl_c_leaves_no_process_and_no_file(model, tmp_path):
    command = [sys.executable, "-m", "kvquilt", "demo", "--model", str(model), "--profile", ""]
    environment = {**os.environ, "TMPDIR": str(tmp_path), "COLUMNS": "80"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if QUESTIONS[0].text in line:
                break
        else:
            pytest.fail("the demo ended before its first question")
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
    assert process.returncode not in (0, None)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(tmp_path.iterdir()) == []
