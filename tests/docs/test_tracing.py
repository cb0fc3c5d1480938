"""docs/tracing.md names every span there is and no other; docs/observing.md the fields of a line."""

import re

from kvquilt_rpc.logs import lines
from tests.docs.pages import ROOT, first_words, section

_MADE = re.compile(r'\b(?:span|traced|waited|LayerGroups)\(\s*f?"(kvquilt\.[a-z_.]+)"')
_OPERATION = re.compile(r'_operation\("([a-z]+)"')


def test_every_span_is_described_and_no_other() -> None:
    made: set[str] = set()
    for folder in ("rpc", "router", "cache_node", "client"):
        for file in (ROOT / folder).rglob("*.py"):
            text = file.read_text()
            made |= set(_MADE.findall(text))
            made |= {f"kvquilt.store.{name}" for name in _OPERATION.findall(text)}
    described = {name for name in first_words(section("tracing.md", "What is in a trace")) if "/" not in name}
    assert described == made


def test_every_field_of_a_line_is_described() -> None:
    described = first_words(section("observing.md", "The log"))
    source = (ROOT / "rpc" / "kvquilt_rpc" / "logs" / "lines.py").read_text()
    written = set(re.findall(r'"([a-z_]+)": ', source)) | {"trace_id", "span_id", "object"}
    assert described == written - {"type", "reason", "trace"}, "of an error's fields its own row tells"
    assert f"first {lines.OBJECT_DIGITS} digits of an object's key" in section("observing.md", "The log")
