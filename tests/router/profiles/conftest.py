"""A tiny random model and its profile, made once; a client of a router that uses it."""

from dataclasses import replace

import pytest

from kvquilt import Client
from kvquilt_codec.profile import file
from kvquilt_router.engine.model import prepare
from kvquilt_router.profiles import write_whole
from tests.router.families import SUPPORTED, tiny
from tests.router.profiles.calls import calibrated
from tests.stack import serve


@pytest.fixture(scope="package")
def model():
    return prepare(tiny(*SUPPORTED["gemma3"]), None, "tiny")


@pytest.fixture(scope="package")
def data(model):
    return calibrated(model)


@pytest.fixture(scope="package")
def path(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("profiles") / "tiny.profile"
    write_whole(path, data)
    return path


@pytest.fixture(scope="package")
def other_data(data):
    return file.dump(replace(file.load(data), model_fingerprint="0" * 64))


@pytest.fixture
def client(model, path, tmp_path):
    with serve(model, tmp_path, profile=str(path), background=False) as router, Client(router) as client:
        yield client
