"""Tests of the vLLM connector; collected only where vLLM is installed, which `make test-vllm` sees to."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvquilt.demo.server import serving
from kvquilt.sync import Client
from kvquilt_router.engine.folder import folder_fingerprint
from tests.vllm.engines import EngineProcess, engine_process
from tests.vllm.road import Road, road

collect_ignore_glob = [] if importlib.util.find_spec("vllm") else ["test_*.py"]

LOSSLESS = ("router.dtype=bfloat16", "router.level=lossless", "router.profile=", "router.ungated=true")
"""A router whose KV is bit by bit what was stored, and that blends as it is asked to: quality is not tested here."""


@pytest.fixture(scope="session")
def model() -> str:
    """Folder of the demo model."""
    from kvquilt_router.engine.smollm2 import ensure

    return str(ensure())


@pytest.fixture(scope="session")
def router(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A router and a node, in a process of their own; yields the router's address."""
    with serving(tmp_path_factory.mktemp("store"), LOSSLESS) as address:
        yield address


@pytest.fixture(scope="session")
def client(router: str) -> Iterator[Client]:
    with Client(router) as opened:
        yield opened


@pytest.fixture(scope="session")
def to_router(router: str) -> Iterator[Road]:
    """The way from `engine` to `router`."""
    with road(router) as made:
        yield made


@pytest.fixture(scope="session")
def fingerprint(model: str) -> str:
    """Of the model in bfloat16; once it is in the user's cache, engines know it when they start."""
    return folder_fingerprint(Path(model), "bfloat16")


@pytest.fixture(scope="session")
def shared_engine(model: str, fingerprint: str, to_router: Road) -> Iterator[EngineProcess]:
    """vLLM in bfloat16, blocks of 128 tokens, prompts computed 512 tokens at a time."""
    settings = {"plan_seconds": 30.0, "load_seconds": 10.0, "namespaces": {"mapped": "public"}}
    with engine_process(
        model, to_router.address, settings, dtype="bfloat16", block_size=128, max_num_batched_tokens=512
    ) as made:
        yield made


@pytest.fixture
def engine(shared_engine: EngineProcess, to_router: Road, router: str) -> Iterator[EngineProcess]:
    """`shared_engine`, with nothing in its own prefix cache and a way to the router."""
    shared_engine.forget()
    yield shared_engine
    if (to_router.target, to_router.pause, to_router.bytes_left) != (router, 0.0, None):
        to_router.lead(router)
