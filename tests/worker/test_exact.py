"""KV that a worker saves comes back as it was, wherever the same tokens begin a prompt."""

from kvquilt.worker import Extent, KvToSave
from tests.worker.conftest import asked, assert_layers, tokens


def test_a_longer_prompt_gets_what_was_saved_of_a_shorter_one(worker):
    text = tokens(700)
    layers = worker.computed(text[:600])
    assert worker.cache.save(KvToSave(asked(text[:600]), layers, exact_tokens=600))
    worker.cache.settle()
    request = asked(text, extent=Extent.EXACT)
    plan, got, report = worker.load(request)
    assert plan.extent is Extent.EXACT
    # To the last whole block from the last place where every longer text is cut.
    assert 600 - 64 < plan.kv_tokens <= 600
    assert plan.exact_tokens == plan.kv_tokens
    assert (report.complete, report.exact, report.kv_tokens) == (True, True, plan.kv_tokens)
    assert_layers(got, layers, 0, plan.kv_tokens)
