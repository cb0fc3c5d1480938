"""`kvquilt eval` on a tiny model: figures of every way, the gate's word on them, and what it refuses."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast
from typer.testing import CliRunner

from kvquilt.cli.main import app
from tests.router.families import SUPPORTED, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model's folder; its words are numbers."""
    path = tmp_path_factory.mktemp("model")
    tiny(*SUPPORTED["llama"]).save_pretrained(path)
    words = Tokenizer(WordLevel({"<unk>": 0, **{str(number): number for number in range(1, 500)}}, "<unk>"))
    words.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    path = tmp_path_factory.mktemp("documents")
    for number in range(3):
        words = np.random.default_rng(number).zipf(1.3, 900) % 490 + 3
        (path / f"{number}.txt").write_text(" ".join(map(str, words)))
    return path


def evaluate(*arguments):
    return CliRunner().invoke(app, ["eval", *map(str, arguments)])


def test_every_way_has_its_figures_and_full_equals_a_full_prefill(folder, documents, tmp_path):
    output = tmp_path / "eval.json"
    options = ("--cases", 4, "--context-tokens", 512, "--policy", "parallel:0", "--policy", "random:0.1")
    result = evaluate(
        "--documents", documents, "--model", folder, *options, "--max-kl", 9, "--output", output, "--json"
    )
    assert result.exit_code == 0, result.output
    figures = json.loads(output.read_text())
    rows = {(row["policy"], row["recompute_ratio"], row["variant"]): row for row in figures["rows"]}
    assert {policy for policy, *_ in rows} == {"none", "question-deviation", "deviation", "full", "parallel", "random"}
    assert all(row["cases"] == 4 for row in rows.values())
    assert rows["full", 1.0, "base"]["kl_geomean"] < 1e-5
    assert rows["full", 1.0, "base"]["answer_agreement"] == 1
    assert rows["deviation", 0.15, "base"]["kl_vs_cacheblend15"] == pytest.approx(1)
    assert rows["none", 0.0, "base"]["kl_geomean"] > rows["question-deviation", 0.2, "base"]["kl_geomean"] > 1e-6
    assert rows["none", 0.0, "base"]["tokens_recomputed"] == 0 < rows["random", 0.1, "warm"]["tokens_recomputed"]
    assert {said["context"] for said in figures["gate"]} == {"base", "warm"}
    assert all(said["refusal"] == "" and 0 < said["predicted_kl"] <= 9 for said in figures["gate"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "anchors:1"), "learns from requests"),
        (("--policy", "nearest:0.1"), "expected a policy in"),
        (("--policy", "random"), "expected NAME:RATIO"),
        (("--documents", "nowhere"), "neither"),
    ],
)
def test_what_cannot_be_tried_is_refused_before_a_model_is_loaded(documents, options, said):
    result = evaluate("--documents", documents, "--model", "no such model", *options)
    assert result.exit_code in (2, 3)
    assert said in result.output


def test_a_folder_below_the_one_given_is_a_kind_of_text_and_prompts_are_of_one_kind(folder, documents, tmp_path):
    for kind in ("letters", "reports"):
        (tmp_path / kind).mkdir()
        for path in documents.iterdir():
            words = path.read_text().split()
            (tmp_path / kind / path.name).write_text(" ".join(words if kind == "letters" else words[::-1]))
    (tmp_path / "notes.txt").write_text(" ".join(["7"] * 200))
    output = tmp_path / "eval.json"
    options = ("--cases", 4, "--context-tokens", 512, "--model", folder, "--output", output)
    result = evaluate("--documents", tmp_path, *options)
    assert result.exit_code == 0, result.output
    kinds = json.loads(output.read_text())["conditions"]["kinds"]
    assert kinds == [f"reports and {tmp_path.name}", "letters"], "what is too little for a prompt goes with others"
    assert "2 kinds of text" in result.output


def test_too_little_text_is_refused(folder, tmp_path):
    (tmp_path / "short.txt").write_text("1 2 3")
    result = evaluate("--documents", tmp_path, "--model", folder)
    assert result.exit_code == 2
    assert "add documents" in result.output
