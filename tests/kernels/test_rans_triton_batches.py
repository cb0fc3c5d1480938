"""Batches of blocks in Triton, on a GPU or in its interpreter: they decode to what the reference decodes one by one.

The interpreter must be chosen before Python starts: `test_rans_triton.py` runs this module so.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from kvquilt_kernels.entropy import RealType
from tests.kernels.blocks import REFERENCE, random_tables
from tests.kernels.streams import check_symbols, decoder, needs_triton, streams

pytestmark = needs_triton

STREAMS = 3
TYPES = {
    torch.uint8: "*u8",
    torch.uint16: "*u16",
    torch.uint32: "*u32",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float32: "*fp32",
}


@pytest.mark.parametrize("kind", ["uniform", "degenerate"])
@pytest.mark.parametrize("contexts", [1, 5])
@pytest.mark.parametrize("alphabet", [2, 3, 16, 17, 64, 256])
def test_every_alphabet(alphabet: int, contexts: int, kind: str) -> None:
    check_symbols(streams(3, 33, alphabet, contexts, kind=kind))


@pytest.mark.parametrize(
    ("tokens", "channels"), [(1, 1), (64, 32), (65, 31), (65, 64), (65, 65), (66, 128), (65, 192), (256, 64)]
)
def test_every_number_of_lanes_and_tails(tokens: int, channels: int) -> None:
    check_symbols(streams(tokens, channels, 16, contexts=1 + channels % 2, count=1))


@pytest.mark.parametrize("tables", [1, 2, 64])
def test_every_number_of_tables(tables: int) -> None:
    check_symbols(streams(3, 40, 8, tables=tables))


@pytest.mark.parametrize("contexts", [2, 256])
def test_every_number_of_contexts(contexts: int) -> None:
    check_symbols(streams(3, 40, 3, contexts=contexts, count=2))


@pytest.mark.parametrize(
    ("tokens", "channels", "alphabet", "spread"),
    [
        (5, 33, 16, 6),
        (66, 64, 16, 5),
        (65, 128, 64, 25),
        (5, 70, 2, 1),
        (4, 40, 4, 1000),
        (3, 64, 256, 1e9),
        (3, 9, 8, 0),
    ],
)
def test_values_and_escapes(tokens: int, channels: int, alphabet: int, spread: float) -> None:
    rng = np.random.default_rng(alphabet)
    tables = random_tables(rng, 5, alphabet)
    count = STREAMS if tokens < 10 else 1
    ids = rng.integers(0, 5, (count, 1, channels), dtype=np.uint8)
    steps = [0.37, 1e-30, 3e28][:count]
    values = rng.standard_normal((count, tokens, channels)) * spread
    coded = [
        REFERENCE.quantise_encode((own * step).astype(np.float32), step, tables, row)
        for own, step, row in zip(values, steps, ids, strict=True)
    ]
    blocks, escapes = [block for block, _ in coded], [listed for _, listed in coded]
    given = (blocks, escapes, tokens, channels)
    quanta = decoder().quantised(*given, tables, torch.from_numpy(ids))
    assert quanta.dtype == torch.int32
    found: dict[RealType, torch.Tensor] = {
        dtype: decoder().dequantised(*given, steps, tables, torch.from_numpy(ids), dtype)
        for dtype in ("float32", "bfloat16")
    }
    assert [values.dtype for values in found.values()] == [torch.float32, torch.bfloat16]
    for stream in range(count):
        one = (blocks[stream], escapes[stream], tokens, channels)
        assert np.array_equal(quanta[stream].cpu(), REFERENCE.decode_quantised(*one, tables, ids[stream]))
        for dtype, decoded in found.items():
            bits = decoded[stream].view(torch.uint32 if dtype == "float32" else torch.uint16).cpu().numpy()
            expected = REFERENCE.decode_dequantise(*one, steps[stream], tables, ids[stream], dtype)
            assert bits.tobytes() == expected.tobytes(), f"stream {stream} decodes to other {dtype}"


def test_arguments_that_do_not_fit_are_refused() -> None:
    batch = streams(3, 33, 16)
    ids = batch.table_ids
    with pytest.raises(ValueError, match="expected 1 to 2"):
        replace(batch, blocks=[]).symbols(decoder())
    for wrong in (ids[:2], ids[0], ids[:, :0], ids[:, :, :32]):
        with pytest.raises(ValueError, match="expected table ids"):
            replace(batch, table_ids=wrong).symbols(decoder())
    with pytest.raises(ValueError, match="expected contexts"):
        replace(batch, contexts=np.zeros((3, 3, 32), np.uint8)).symbols(decoder())
    with pytest.raises(TypeError, match="uint8"):
        replace(batch, table_ids=ids.astype(np.int64)).symbols(decoder())
    none = [np.zeros(0, np.int32)] * 2
    with pytest.raises(ValueError, match="one list of escapes"):
        decoder().quantised(batch.blocks, none, 3, 33, batch.tables, torch.from_numpy(ids))
    with pytest.raises(ValueError, match="one step"):
        decoder().dequantised(batch.blocks, none, 3, 33, [1.0], batch.tables, torch.from_numpy(ids), "bfloat16")


class Recorded:
    """A kernel, and the types of the arguments of its launches."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.types: dict[str, str] = {}

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **constants: Any) -> None:
            for name, given in zip(self.kernel.arg_names, arguments, strict=False):
                if given is not None:
                    self.types[name] = "i32" if isinstance(given, int) else TYPES[given.dtype]
            self.kernel[grid](*arguments, **constants)

        return launch


def test_the_kernels_are_launched_with_the_types_that_they_are_compiled_for(monkeypatch: pytest.MonkeyPatch) -> None:
    from kvquilt_kernels import rans_triton_batch
    from tests.kernels.test_rans_triton import CONTEXTS, DECODE, OF_KIND, PLACE

    def launched(call: Callable[[], torch.Tensor]) -> tuple[dict[str, str], dict[str, str]]:
        decode, place = Recorded(rans_triton_batch.decode), Recorded(rans_triton_batch.place_escapes)
        with monkeypatch.context() as patched:
            patched.setattr(rans_triton_batch, "decode", decode)
            patched.setattr(rans_triton_batch, "place_escapes", place)
            call()
        return decode.types, place.types

    batch = streams(2, 33, 15, contexts=2)
    assert launched(lambda: batch.symbols(decoder())) == (DECODE | OF_KIND["symbols"] | CONTEXTS, {})
    even = streams(2, 33, 2, kind="degenerate")
    ids, listed = (
        torch.from_numpy(even.table_ids),
        [np.full(int(even.decoded(at).sum()), 1, np.int32) for at in range(3)],
    )
    given = (even.blocks, listed, 2, 33)
    kinds: dict[str, Callable[[], torch.Tensor]] = {
        "int32": lambda: decoder().quantised(*given, even.tables, ids),
        "float32": lambda: decoder().dequantised(*given, [1.0] * 3, even.tables, ids, "float32"),
        "bfloat16": lambda: decoder().dequantised(*given, [1.0] * 3, even.tables, ids, "bfloat16"),
    }
    for kind, call in kinds.items():
        assert launched(call) == (DECODE | OF_KIND[kind], PLACE | OF_KIND[kind])
