"""Fixtures that every component's tests may use."""

import pytest
from hypothesis import settings

from tests.texts import PASSAGES

# Machines are busy at times: how long an example takes says nothing about the code.
settings.register_profile("kvquilt", deadline=None)
settings.load_profile("kvquilt")


@pytest.fixture(scope="session")
def smollm2():
    """The demo model, loaded once; float32."""
    from kvquilt_router.engine import load_model

    return load_model("smollm2")


@pytest.fixture(scope="session")
def passages():
    """Short real passages."""
    return list(PASSAGES)
