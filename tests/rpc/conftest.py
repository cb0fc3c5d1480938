"""Fixtures of tests about who calls."""

from pathlib import Path

import pytest

from tests.rpc.certificates import Authority, Signer


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path / "authority")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    return Authority.new(tmp_path / "other")


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer.new(tmp_path / "tokens.key")


@pytest.fixture
def identities(tmp_path: Path) -> Path:
    path = tmp_path / "identities.yaml"
    path.write_text("tenant-a.example: {identity: tenant-a, namespaces: [a]}\n")
    return path
