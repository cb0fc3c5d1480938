"""The chart's tests need what helm/fetch_tools.sh fetches; without it `make test` skips them."""

import os
import sys

import pytest

from tests.helm.chart import TOOLS

if TOOLS.joinpath("python").is_dir():
    sys.path.append(str(TOOLS / "python"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if TOOLS.joinpath("helm").is_file():
        return
    if "CHECK_HELM" in os.environ:
        raise pytest.UsageError(f"expected helm in {TOOLS}; it is not there: run `make check-helm`")
    for item in items:
        if "tests/helm/" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="without helm: run `make check-helm`"))
