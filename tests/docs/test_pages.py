"""Links lead somewhere, and named files exist."""

import re

import pytest

from tests.docs.pages import PAGES, ROOT

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_of_the_repository(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).resolve().exists(), target


@pytest.mark.parametrize("name", NAMES)
def test_every_path_in_back_ticks_exists(name: str) -> None:
    """Paths that begin with a folder of the repository, without placeholders."""
    folders = "proto|kernels|codec|rpc|cache_node|router|client|tests|bench|docs|helm"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)`", (ROOT / name).read_text()):
        if not re.search("[A-Z]{4}|results/", path):
            assert list(ROOT.glob(path.rstrip("/"))), path
