"""Steps of tests: a prompt is saved, and comes back."""

import time

from tests.stack import eventually
from tests.vllm.engines import Answer, EngineProcess

EXACT = {"extent": "exact"}
_TRIES = 40


def saved(engine: EngineProcess, prompt: list[int], **said: object) -> Answer:
    """Answer a prompt that was not seen before, and wait until the router has stored what was new."""
    before = engine.counters()
    answer = engine.one(prompt, **EXACT, **said)
    assert answer.told["tokens_exact"] + answer.told["tokens_blended"] == 0
    eventually(lambda: engine.counters()["tokens_saved"] > before["tokens_saved"])
    engine.forget()
    return answer


def again(engine: EngineProcess, prompt: list[int], least: int, **said: object) -> Answer:
    """Answer a prompt from what is stored, at least `least` tokens of it; storing may not be finished yet."""
    for _ in range(_TRIES):
        engine.forget()
        answer = engine.one(prompt, **EXACT, **said)
        if int(answer.told["tokens_exact"]) >= least:
            return answer
        time.sleep(0.3)
    raise AssertionError(f"expected {least} tokens of {len(prompt)}; the last answer told {answer.told}")
