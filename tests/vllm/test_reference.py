"""docs/reference.md names what the connector has."""

import re

from kvquilt.integrations.vllm.counting import COUNTERS
from kvquilt.integrations.vllm.options import ConnectorSettings
from tests.docs.pages import first_words, section


def test_settings_and_counters_are_the_connectors() -> None:
    part = section("reference.md", "`kvquilt.integrations.vllm`")
    settings, counters = part.split("| counter, in Prometheus")
    assert first_words(settings) == set(ConnectorSettings.model_fields)
    assert first_words(counters) == set(COUNTERS)
    shown = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", settings, re.MULTILINE))
    for name, field in ConnectorSettings.model_fields.items():
        if isinstance(field.default, bool | int | float) and name != "save_bytes":
            assert shown[name] == str(field.default).lower()
    assert ConnectorSettings().save_bytes == 512 << 20
