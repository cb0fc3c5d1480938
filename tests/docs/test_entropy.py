"""docs/entropy.md gives the bytes that the coder writes, and a decoder that reads them."""

import ast
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

from kvquilt_kernels.reference import ReferenceKernels
from kvquilt_kernels.types import Bytes, FrequencyTables
from tests.docs.pages import section
from tests.kernels.blocks import REFERENCE, Sample, sample
from tests.kernels.test_rans_blocks import GOLDEN, GOLDEN_BYTES

PAGE = "entropy.md"
KERNELS = ReferenceKernels()


def vectors() -> list[dict[str, Any]]:
    """Named lists of each test vector, its block under "block"."""
    found = []
    for text in re.findall(r"```\n(.*?)```", section(PAGE, "Test vectors"), re.DOTALL):
        fields: dict[str, Any] = {}
        for name, value in re.findall(r"^(\w+(?: ids)?) +(\[.*\])$", text, re.MULTILINE):
            fields[name] = value if name == "bfloat16" else ast.literal_eval(value)
        parts = []
        for offset, line in re.findall(r"^([0-9a-f]{4})  (.*?)(?:   .*)?$", text, re.MULTILINE):
            repeated = re.fullmatch(r"\((\d+) times ([0-9a-f ]+)\)", line)
            assert int(offset, 16) == sum(map(len, parts)), "the offsets are those of the lines"
            parts.append(int(repeated[1]) * bytes.fromhex(repeated[2]) if repeated else bytes.fromhex(line))
        found.append({**fields, "block": b"".join(parts)})
    return found


def documented_decoder() -> Callable[..., list[list[int]]]:
    (code,) = re.findall(r"```python\n(.*?)```", section(PAGE, "Decoding"), re.DOTALL)
    scope: dict[str, Any] = {"struct": struct}
    exec(code, scope)  # noqa: S102 - the page's own
    decoder: Callable[..., list[list[int]]] = scope["decode"]
    return decoder


def tables_of(vector: dict[str, Any]) -> tuple[FrequencyTables, Bytes]:
    return FrequencyTables(np.array(vector["tables"], np.uint16)), np.array(vector["table ids"], np.uint8)


def test_the_first_vector_is_what_the_encoder_writes() -> None:
    vector = vectors()[0]
    tables, ids = tables_of(vector)
    content = Sample(np.array(vector["symbols"], np.uint8), tables, ids, None)
    assert content.encode(KERNELS).tobytes() == vector["block"]
    assert vector["block"].hex() == GOLDEN_BYTES
    assert np.array_equal(content.symbols, GOLDEN.symbols)


def test_the_second_vector_is_what_quantising_writes() -> None:
    vector = vectors()[1]
    tables, ids = tables_of(vector)
    values = np.array(vector["values"], np.float32)
    block, escapes = KERNELS.quantise_encode(values, 0.5, tables, ids)
    assert block.tobytes() == vector["block"]
    assert escapes.tolist() == vector["escapes"]
    assert KERNELS.decode_quantised(block, escapes, *values.shape, tables, ids).tolist() == vector["q"]
    bits = KERNELS.decode_dequantise(block, escapes, *values.shape, 0.5, tables, ids, "bfloat16")
    assert [f"{word:04x}" for word in bits.reshape(-1)] == re.findall(r"[0-9a-f]{4}", vector["bfloat16"])


def test_the_decoder_on_the_page_reads_blocks() -> None:
    decode = documented_decoder()
    for content in (GOLDEN, sample(66, 192, 16), sample(70, 128, 3, contexts=5), sample(65, 33, 256)):
        contexts = np.zeros_like(content.symbols) if content.contexts is None else content.contexts
        block = content.encode(REFERENCE).tobytes()
        tables = content.tables.frequencies.tolist()
        decoded = decode(block, *content.shape, tables, content.table_ids.tolist(), contexts.tolist())
        assert decoded == content.symbols.tolist()
