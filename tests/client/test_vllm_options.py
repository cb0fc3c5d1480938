"""What vLLM's connector reads of its settings and of requests; vLLM itself is not needed for it."""

import contextlib

import numpy as np
import pytest
from transformers import AutoTokenizer

from kvquilt.demo.corpus import passages
from kvquilt.errors import BadRequestError
from kvquilt.integrations.vllm.counting import Tally
from kvquilt.integrations.vllm.options import parse_request, parse_settings
from kvquilt.integrations.vllm.texts import Texts
from kvquilt_router.engine.chat import tokenise
from kvquilt_router.engine.model import resolve
from tests.stack import eventually

FOLDER = resolve("smollm2")
TEXTS = [str(document.content) for document in passages().values()][:3]


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(FOLDER)


@pytest.fixture(scope="module")
def texts():
    found = Texts(FOLDER, Tally())

    def loaded():
        with contextlib.suppress(BadRequestError):
            return found.boundaries(np.arange(3, 40, dtype=np.uint32), [], 0) == (0, ())
        return False

    eventually(loaded)
    return found


def parsed(texts, token_ids, said, **settings):
    return parse_request(parse_settings(settings), {"kvquilt": said}, None, list(token_ids), texts.boundaries)


@pytest.mark.parametrize("between", ["", "\n\n", "\n---\n", " [2] "])
def test_documents_named_by_their_texts_are_cut_as_a_prefetch_of_them_is(tokenizer, texts, between):
    messages = [{"role": "user", "content": between.join(TEXTS) + "\n\nQuestion: which metal?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    request = parsed(texts, prompt, {"documents": TEXTS}).request
    bounds = np.cumsum([request.prefix_tokens, *request.document_tokens])
    cut = np.split(np.asarray(prompt), bounds)[1:-1]
    longest = sorted(sorted(cut, key=len)[-3:], key=lambda part: [p is part for p in cut].index(True))
    for part, text in zip(longest, TEXTS, strict=True):
        whole = tokenise(tokenizer, text)
        # One token at either end may be merged with what is around it.
        assert len(whole) - 2 <= len(part) <= len(whole)
        assert part.tolist() in ([*whole], [*whole[:-1]], [*whole[1:]], [*whole[1:-1]])


def test_what_is_not_in_the_prompt_is_refused_with_a_reason(tokenizer, texts):
    prompt = tokenise(tokenizer, TEXTS[0] + TEXTS[1] + "What?")
    for documents in ([TEXTS[2]], [TEXTS[1], TEXTS[0]], ["x" * 10**6]):
        with pytest.raises(BadRequestError) as raised:
            parsed(texts, prompt, {"documents": documents})
        assert raised.value.reason == "document_not_found"
    with pytest.raises(BadRequestError, match="got both"):
        parsed(texts, prompt, {"documents": [TEXTS[0]], "document_tokens": [5]})


def test_times_to_live_and_transience_are_the_requests_or_else_the_operators(texts):
    def read(said, **settings):
        options = parsed(texts, range(3, 300), said, **settings)
        return options.ttl, options.ttl_renewed, options.request.transient, options.save

    assert read({}) == (None, False, False, True)
    assert read({}, ttl=60, ttl_renewed=True) == (60, True, False, True)
    assert read({"ttl": 5, "ttl_renewed": False}, ttl=60, ttl_renewed=True) == (5, False, False, True)
    assert read({"transient": True}) == (None, False, True, False)
    assert read({"transient": False}, transient=True) == (None, False, False, True)
    for said, settings in (({"ttl_renewed": True}, {}), ({"ttl": 0}, {}), ({}, {"ttl_renewed": True})):
        with pytest.raises(BadRequestError, match="ttl"):
            read(said, **settings)


def test_a_folder_without_a_tokenizer_is_told(tmp_path):
    tally = Tally()
    found = Texts(tmp_path, tally)
    reasons = set()

    def known():
        with pytest.raises(BadRequestError) as raised:
            found.boundaries(np.arange(3, 40, dtype=np.uint32), ["text"], 0)
        reasons.add(raised.value.reason)
        return raised.value.reason == "tokenizer_unknown"

    eventually(known)
    assert reasons <= {"tokenizer_not_loaded_yet", "tokenizer_unknown"}
