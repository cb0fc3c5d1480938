"""Links lead somewhere, to a heading that is there where they name one, and named files exist."""

import re
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT

NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_of_the_repository(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("https://"):
            assert (page.parent / target).resolve().exists(), target


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings: small letters and figures, hyphens for spaces, `-1` and so on for repeats."""
    found: set[str] = set()
    without_code = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for heading in re.findall(r"^#+ (.*)$", without_code, re.MULTILINE):
        slug = re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        found.add(next(name for n in range(len(found) + 1) if (name := f"{slug}-{n}" if n else slug) not in found))
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_link_to_a_heading_finds_it(name: str) -> None:
    page = ROOT / name
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]*)\)", page.read_text()):
        there = (page.parent / target).resolve() if target else page
        assert anchor in anchors(there), f"{target}#{anchor}"


@pytest.mark.parametrize("name", NAMES)
def test_every_path_in_back_ticks_exists(name: str) -> None:
    """Paths that begin with a folder of the repository, without placeholders."""
    folders = "proto|kernels|codec|rpc|cache_node|router|client|tests|bench|docs|helm"
    for path in re.findall(rf"`((?:{folders})/[\w./*-]+)`", (ROOT / name).read_text()):
        if not re.search("[A-Z]{4}|results/", path):
            assert list(ROOT.glob(path.rstrip("/"))), path
