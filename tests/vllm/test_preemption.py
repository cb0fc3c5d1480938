"""Float32, small blocks, and less room than the requests need: some are preempted, and loaded or computed again.

In float32, since tokens that were decoded are computed again as a prompt, which in bfloat16 may round to another word.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from kvquilt.demo.server import serving
from kvquilt_router.engine.folder import folder_fingerprint
from tests.vllm.asking import EXACT, again, saved
from tests.vllm.conftest import LOSSLESS
from tests.vllm.engines import Ask, EngineProcess, engine_process
from tests.vllm.prompts import long_prompt


@pytest.fixture(scope="module")
def small_engine(model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineProcess]:
    """Blocks of 32 tokens, and room for 1,600 of them."""
    folder_fingerprint(Path(model), "float32")
    settings = {"plan_seconds": 30.0, "load_seconds": 30.0}
    options = {"dtype": "float32", "block_size": 32, "num_gpu_blocks_override": 50, "max_model_len": 1024}
    flags = ("router.dtype=float32", *LOSSLESS[1:])
    with (
        serving(tmp_path_factory.mktemp("store"), flags) as address,
        engine_process(model, address, settings, **options) as made,
    ):
        yield made


def test_requests_that_are_preempted_end_with_the_same_tokens(small_engine: EngineProcess, model: str) -> None:
    prompts = [long_prompt(model, seed, 400) for seed in (10, 11, 12)]
    plain = [small_engine.plain(prompt, 160) for prompt in prompts]
    for prompt in prompts[:2]:
        saved(small_engine, prompt)
        assert again(small_engine, prompt, 256).token_ids == small_engine.plain(prompt)
    small_engine.forget()
    before = small_engine.preemptions()
    answers = small_engine.ask(*(Ask(prompt, EXACT, max_tokens=160) for prompt in prompts))
    assert small_engine.preemptions() > before
    assert [answer.token_ids for answer in answers] == plain
    assert [answer.told["tokens_exact"] >= 256 for answer in answers][:2] == [True, True]
