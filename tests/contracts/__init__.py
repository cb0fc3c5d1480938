"""Contract suites: what every implementation of a `Protocol` promises, to be subclassed by whoever writes one."""

import pytest

pytest.register_assert_rewrite(
    "tests.contracts.index_contract",
    "tests.contracts.index_machine",
    "tests.contracts.store_contract",
    "tests.contracts.store_documents",
    "tests.contracts.store_gates",
    "tests.contracts.store_lookup",
    "tests.contracts.store_machine",
    "tests.contracts.store_objects",
    "tests.contracts.store_profiles",
)
