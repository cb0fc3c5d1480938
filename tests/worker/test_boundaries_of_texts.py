"""Documents are found in a prompt's tokens, wherever they are and whatever is around them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvquilt.errors import BadRequestError
from kvquilt.worker import WorkerRequest, boundaries

RUN = st.lists(st.integers(3, 400), max_size=60)
"""Few kinds of tokens, so that runs repeat by chance."""


def ids(tokens):
    return np.asarray(tokens, np.uint32)


@given(RUN, st.lists(st.tuples(RUN, st.lists(st.integers(500, 510), max_size=3)), max_size=6))
def test_documents_keep_their_tokens_and_what_is_between_them_is_apart(prefix, parts):
    """Separators have tokens that no document has, so that each document is where it was put."""
    prompt, expected, gap = [*prefix, 511], [], 0
    for document, separator in parts:
        prompt += [*document, *separator]
        expected += [gap, len(document)] if document else []
        gap = len(separator) + (0 if document else gap)
    found = boundaries(ids([*prompt, 512]), [ids(document) for document, _ in parts], len(prefix) + 1)
    assert found == (len(prefix) + 1, tuple(length for length in expected if length))
    WorkerRequest(ids([*prompt, 512]), *found)


def test_ends_that_are_merged_with_the_text_around_them_are_left_out():
    document = ids(range(100, 150))
    prompt = ids([1, 2, 90, *range(102, 149), 91, 92, 93])
    assert boundaries(prompt, [document]) == (3, (47,))
    assert boundaries(prompt, [document], prefix_tokens=2) == (2, (1, 47))


def test_without_a_prefix_the_first_document_ends_it():
    first, second = ids(range(100, 120)), ids(range(200, 230))
    prompt = np.concatenate([ids([1, 2, 3]), first, ids([9]), second, ids([4])])
    assert boundaries(prompt, [first, ids([]), second]) == (3, (20, 1, 30))
    assert boundaries(prompt, []) == (0, ())


@pytest.mark.parametrize(
    "documents", [[range(300, 330)], [range(200, 230), range(100, 120)], [range(100, 119), range(100, 120)]]
)
def test_what_is_not_in_the_prompt_in_this_order_is_told(documents):
    prompt = ids([1, *range(100, 120), *range(200, 230), 4])
    with pytest.raises(BadRequestError, match="in its order") as raised:
        boundaries(prompt, [ids(document) for document in documents])
    assert raised.value.reason == "document_not_found"
