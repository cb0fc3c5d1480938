"""The engines by name."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ttft.transformers_engine import TransformersEngine
from ttft.types import Engine
from ttft.vllm_engine import PYTHON, VllmEngine

ENGINES = ("transformers", "vllm")


@contextmanager
def opened(name: str, router: str, dtype: str, threads: int, vllm_python: Path = PYTHON) -> Iterator[Engine]:
    """An engine that asks the router at this address, until the block ends.

    Raises:
        UnavailableError: vLLM is not installed.
    """
    engine: Engine
    if name == "vllm":
        engine = VllmEngine(router, dtype, threads, vllm_python)
    else:
        engine = TransformersEngine(router, dtype, threads)
    try:
        yield engine
    finally:
        engine.close()
