"""`kvquilt why` says in words what the router explains, and for every cause what to do."""

import json

import pytest
from typer.testing import CliRunner

from kvquilt import Client, Document
from kvquilt.cli.advice import ADVICE
from kvquilt.cli.main import app
from kvquilt.cli.why import ago
from kvquilt_router.engine.model import prepare
from kvquilt_router.types import MISS_REASONS
from kvquilt_router.why.types import CAUSES
from tests.router.families import SUPPORTED, tiny
from tests.router.letters import letter_tokenizer
from tests.stack import serve

TEXT = (
    "The quick brown fox jumps over the lazy dog, then rests in the shade of an oak until the evening comes. "
    "Nobody in the village has seen it since, though some have heard a bark behind the mill at night. "
)
SETTINGS = {"background": False, "warm_up_passages": 0, "chunk_tokens": 512}


def test_there_is_advice_for_every_cause_and_for_nothing_else():
    assert ADVICE.keys() == {*CAUSES, *MISS_REASONS} - {"not_stored"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    model = prepare(tiny(*SUPPORTED["llama"]), letter_tokenizer(), "tiny")
    with serve(model, tmp_path_factory.mktemp("store"), **SETTINGS) as router:
        with Client(router) as client:
            list(client.prefetch([Document("text", TEXT)]))
        yield router


def run(address, *arguments):
    # Wide enough for a table's rows.
    done = CliRunner().invoke(app, ["why", *arguments, "--router", address], env={"COLUMNS": "200"})
    return done.exit_code, done.stdout, done.stderr


def asked(address, *documents):
    with Client(address) as client:
        return client.blend([*documents, "Why?"], policy="none").report.request_id


def test_the_beginning_of_an_id_as_top_shows_it_is_enough(address):
    request = asked(address, "Nothing of this was ever stored anywhere. " * 4)
    code, text, _ = run(address, request[:8])
    assert code == 0
    assert f"request {request}" in text
    code, _, error = run(address, "0" * 8)
    assert code == 3
    assert "expected the id of a request" in error


def test_an_edit_is_shown_with_the_text_around_it(address):
    edited = TEXT.replace("lazy dog", "lazy cat", 1)
    code, text, _ = run(address, asked(address, edited))
    assert code == 0
    assert "edited: differs from what is stored" in text
    assert "after:  'er the lazy '" in text
    assert "stored: 'dog, then re'" in text
    assert "got:    'cat, then re'" in text
    assert "edited: prefetch the new text" in text


def test_white_space_that_nobody_sees_is_named(address):
    spaced = TEXT.replace("lazy dog", "lazy\u00a0dog", 1)
    code, text, _ = run(address, asked(address, spaced), "--json")
    assert code == 0
    (missed,) = [chunk for chunk in json.loads(text)["chunks"] if chunk["cause"]]
    assert (missed["cause"], missed["divergence"]["got_text"][0]) == ("normalised", "\u00a0")


def test_documents_and_prompts_are_explained_without_a_request(address, tmp_path):
    known, new, prompt = tmp_path / "known.txt", tmp_path / "new.txt", tmp_path / "prompt.txt"
    known.write_text(TEXT)
    new.write_text("Nobody has ever stored these words.")
    prompt.write_text("Nobody has ever stored these words. " + TEXT + "?")
    code, text, _ = run(address, "--doc", str(known))
    assert (code, "Nothing was missed." in text) == (0, True)
    code, text, _ = run(address, "--doc", str(known), "--doc", str(new))
    assert "never_stored: was never stored" in text
    assert "document 2" in text
    code, text, _ = run(address, "--prompt", str(prompt))
    assert (code, f"{len(TEXT)} blended" in text) == (0, True)


def test_wrong_usage_and_unknown_requests_end_with_their_codes(address):
    assert run(address)[0] == 2
    assert run(address, "a", "--doc", "b")[0] == 2
    code, _, error = run(address, "0" * 32)
    assert (code, "unknown_request" in error) == (3, True)


def test_times_are_told_in_words():
    assert [ago(0.0, now) for now in (-1, 59.9, 60, 7200, 90000, 200000)] == [
        "0 s ago",
        "59 s ago",
        "1 minute ago",
        "2 hours ago",
        "1 day ago",
        "2 days ago",
    ]
