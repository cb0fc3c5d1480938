"""The entropy coder: every backend writes the reference's blocks and reads them back."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_kernels import Kernels
from kvquilt_kernels.entropy import lanes_for
from tests.kernels.blocks import BACKENDS, REFERENCE, Sample, backends, likely_symbols, random_tables, sample

ALPHABETS = [2, 3, 4, 5, 8, 15, 16, 17, 64, 65, 256]


def check_parity(content: Sample) -> None:
    expected = content.encode(REFERENCE)
    for name, kernels in BACKENDS.items():
        assert content.encode(kernels).tobytes() == expected.tobytes(), f"{name} writes another block"
        assert np.array_equal(content.decode(kernels, expected), content.symbols), f"{name} reads something else"


@pytest.mark.parametrize("kind", ["likely", "uniform", "degenerate"])
@pytest.mark.parametrize("alphabet", ALPHABETS)
@pytest.mark.parametrize("contexts", [1, 5])
def test_every_alphabet(alphabet: int, contexts: int, kind: str) -> None:
    check_parity(sample(40, 70, alphabet, contexts, kind=kind))


@pytest.mark.parametrize("alphabet", [3, 16, 64])
@pytest.mark.parametrize("contexts", [1, 5])
@pytest.mark.parametrize(
    ("tokens", "channels", "lanes"),
    [(1, 1, 32), (64, 128, 32), (65, 128, 128), (70, 256, 128), (70, 192, 64), (129, 96, 32), (70, 1, 32)],
)
def test_every_number_of_lanes(tokens: int, channels: int, lanes: int, alphabet: int, contexts: int) -> None:
    assert lanes_for(tokens, channels) == lanes
    check_parity(sample(tokens, channels, alphabet, contexts))


@pytest.mark.parametrize("channels", [*range(1, 40), 63, 64, 65, 95, 96, 97, 127, 128, 129, 160, 191, 193, 199, 200])
def test_every_number_of_channels(channels: int) -> None:
    for tokens in (1, 3, 66):
        check_parity(sample(tokens, channels, 16))
    check_parity(sample(66, channels, 3, contexts=5))
    check_parity(sample(3, channels, 256))


@pytest.mark.parametrize("tables", [1, 2, 31, 32, 33, 63, 64])
@pytest.mark.parametrize("alphabet", [3, 16, 256])
def test_every_number_of_tables(tables: int, alphabet: int) -> None:
    check_parity(sample(66, 130, alphabet, tables=tables))
    check_parity(sample(66, 128, alphabet, contexts=5, tables=tables))


@pytest.mark.parametrize("contexts", [2, 8, 9, 255, 256])
@pytest.mark.parametrize("alphabet", [3, 4, 16, 64])
def test_every_number_of_contexts(contexts: int, alphabet: int) -> None:
    check_parity(sample(66, 128, alphabet, contexts=contexts))


def test_without_contexts_the_first_row_of_table_ids_is_used() -> None:
    content = sample(20, 40, 16, contexts=5)
    first = Sample(content.symbols, content.tables, content.table_ids[:1], None)
    for kernels in BACKENDS.values():
        block = kernels.rans_encode(content.symbols, content.tables, content.table_ids)
        assert block.tobytes() == first.encode(REFERENCE).tobytes()
        zeros = np.zeros_like(content.symbols)
        assert kernels.rans_encode(content.symbols, content.tables, first.table_ids, zeros).tobytes() == block.tobytes()


@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_any_block(data: st.DataObject) -> None:
    check_parity(
        sample(
            tokens=data.draw(st.integers(1, 80), "tokens"),
            channels=data.draw(st.one_of(st.integers(1, 200), st.sampled_from([64, 128, 192, 256])), "channels"),
            alphabet=data.draw(st.one_of(st.integers(2, 20), st.integers(2, 256)), "alphabet"),
            contexts=data.draw(st.integers(1, 10), "contexts"),
            tables=data.draw(st.integers(1, 64), "tables"),
            kind=data.draw(st.sampled_from(["likely", "uniform", "degenerate"]), "kind"),
            seed=data.draw(st.integers(0, 1000), "seed"),
        )
    )


@pytest.mark.parametrize("frequency", [1, 2, 3, 5, 7, 127, 128, 129, 1023, 1024, 1025, 2045, 2046, 2047])
def test_divisions_are_exact_for_every_state_that_a_frequency_meets(frequency: int) -> None:
    """Encoding divides by the frequency: states are driven through their range by many symbols of it."""
    frequencies = np.array([[frequency, 2048 - frequency]], np.uint16)
    tables = type(sample(1, 1, 2).tables)(frequencies)
    rng = np.random.default_rng(frequency)
    ids = np.zeros((1, 256), np.uint8)
    for share in (0.0, 0.5, 0.99):
        symbols = (rng.random((300, 256)) < share).astype(np.uint8)
        check_parity(Sample(symbols, tables, ids, None))


@backends
@pytest.mark.parametrize(
    ("tokens", "channels", "alphabet", "contexts"),
    [(256, 384, 16, 1), (256, 192, 8, 1), (256, 1024, 64, 1), (256, 384, 3, 5), (48, 384, 16, 1)],
)
def test_the_size_is_the_entropy_of_the_tables_and_the_states(
    kernels: Kernels, tokens: int, channels: int, alphabet: int, contexts: int
) -> None:
    rng = np.random.default_rng(5)
    tables = random_tables(rng, 32, alphabet)
    ids = rng.integers(0, 32, (contexts, channels), dtype=np.uint8)
    context = rng.integers(0, contexts, (tokens, channels), dtype=np.uint8)
    symbols = likely_symbols(rng, tables, ids, context, tokens)
    coded = tables.frequencies[ids[context, np.arange(channels)], symbols]
    ideal = -np.log2(coded / 2048).sum()
    block = kernels.rans_encode(symbols, tables, ids, context)
    lanes = lanes_for(tokens, channels)
    header, states = 16, block[16 : 16 + 4 * lanes].view("<u4")
    # A state holds what was not emitted: log2 of it, of which 16 bits are there before the first symbol.
    held = (np.log2(states) - 16).sum()
    emitted = 8 * (block.size - header - 4 * lanes)
    assert abs(emitted + held - ideal) <= 0.002 * ideal
    assert 8 * (block.size - header) <= 1.002 * ideal + 32 * lanes, "a lane costs at most its state"
