"""docs/lmcache.md and docs/formats.md say what the LMCache adapter does."""

import re

from kvquilt.integrations.lmcache.coding import Coding
from kvquilt.integrations.lmcache.identity import TensorSpec
from kvquilt.integrations.lmcache.settings import AdapterSettings, ModelSettings, parsed
from kvquilt.integrations.lmcache.storing import COUNTERS
from kvquilt.integrations.lmcache.tensors import MAX_OPAQUE_BYTES
from kvquilt_rpc.security import Credentials
from tests.client.test_lmcache_objects import Key
from tests.docs.pages import first_words, rows, section, words


def test_every_parameter_is_there_with_its_default():
    text = section("lmcache.md", "Parameters")
    assert first_words(text) == {*AdapterSettings.model_fields, *ModelSettings.model_fields}
    defaults = {row[0].strip("` "): row[1].strip("` ") for row in rows(text)}
    for name, field in {**AdapterSettings.model_fields, **ModelSettings.model_fields}.items():
        shown = defaults[name]
        if isinstance(field.default, bool):
            assert shown == str(field.default).lower()
        elif isinstance(field.default, float):
            assert float(shown) == field.default, name
        elif name == "store_bytes":
            assert shown == f"{field.default >> 30} GiB"
        elif field.default and name not in ("nodes", "credentials"):
            assert shown == str(field.default), name
    credentials = next(row for row in rows(text) if row[0] == "`credentials`")
    assert words(credentials[2]) - {"client.credentials"} == {*Credentials.model_fields} - {"namespace"}


def test_every_counter_is_there():
    assert first_words(section("lmcache.md", "Counters")) == set(COUNTERS)


def test_the_limit_of_bare_bits_is_what_the_page_says():
    (shown,) = re.findall(r"up to (\d+) MiB", section("lmcache.md", "What is stored how"))
    assert int(shown) == MAX_OPAQUE_BYTES >> 20


def test_the_worked_example_of_keys_is_what_the_code_gives():
    settings = parsed({"namespaces": {"red": "public"}, "models": {"a/model": {"revision": "1"}}})
    layout = (TensorSpec("bfloat16", (2, 30, 256, 192)),)
    made = Coding(settings).item(Key(cache_salt="red"), layout, 2 * 30 * 256 * 192 * 2).identity
    text = section("formats.md", "Objects of LMCache")
    shown = re.findall(r"^(fingerprint|chunk key|object key) +([0-9a-f]{64})$", text, re.MULTILINE)
    assert dict(shown) == {
        "fingerprint": made.fingerprint,
        "chunk key": made.chunk_key.hex(),
        "object key": made.object_key.hex(),
    }
