"""Blocks that are damaged, lie, or are none: every backend refuses the same ones and reads nothing beyond them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_kernels import Kernels
from kvquilt_kernels.types import Bytes, FrequencyTables
from tests.kernels.blocks import BACKENDS, REFERENCE, Sample, backends, sample

SMALL = sample(20, 33, 16, kind="uniform", seed=1)
TERNARY = sample(70, 64, 3, contexts=5, seed=2)
WIDE = sample(66, 128, 64, seed=3)
SAMPLES = {"small": SMALL, "ternary": TERNARY, "wide": WIDE}

# The block of docs/entropy.md: the format keeps its meaning.
GOLDEN = Sample(
    np.array([[0, 1, 3], [1, 3, 0], [0, 3, 2], [2, 1, 3], [0, 3, 3], [3, 0, 1], [0, 3, 0], [1, 0, 2]], np.uint8),
    FrequencyTables(np.array([[1024, 640, 256, 128], [40, 1800, 200, 8]], np.uint16)),
    np.array([[0, 1, 1]], np.uint8),
    None,
)
GOLDEN_BYTES = "01000300080000000300000004000000807911520021430dff17c804" + 29 * "00000100" + "f5ff90914803f817"


def frozen(data: Bytes) -> Bytes:
    """The same bytes in an allocation of their own, read-only."""
    copied = data.copy()
    copied.flags.writeable = False
    return copied


def outcomes(content: Sample, block: Bytes) -> set[bytes | None]:
    """What the backends make of a block: symbols, or None where it is refused."""
    found: set[bytes | None] = set()
    for kernels in BACKENDS.values():
        try:
            found.add(content.decode(kernels, frozen(block)).tobytes())
        except ValueError:
            found.add(None)
    return found


def check_damaged(content: Sample, block: Bytes) -> bool:
    """All backends agree on it, and if they accept it, it is the block of what they read. True if it was refused."""
    (outcome,) = outcomes(content, block)
    if outcome is None:
        return True
    symbols = np.frombuffer(outcome, np.uint8).reshape(content.shape)
    again = REFERENCE.rans_encode(symbols, content.tables, content.table_ids, content.contexts)
    assert again.tobytes() == block.tobytes(), "a block that is accepted is that of its symbols"
    return False


@backends
def test_the_golden_block(kernels: Kernels) -> None:
    assert GOLDEN.encode(kernels).tobytes().hex() == GOLDEN_BYTES
    block = np.frombuffer(bytes.fromhex(GOLDEN_BYTES), np.uint8)
    assert np.array_equal(GOLDEN.decode(kernels, block), GOLDEN.symbols)


@pytest.mark.parametrize("name", SAMPLES)
def test_every_truncation_and_every_extension_is_refused(name: str) -> None:
    content = SAMPLES[name]
    block = content.encode(REFERENCE)
    sizes = range(block.size) if name == "small" else range(0, block.size, 7)
    for kernels in BACKENDS.values():
        for size in sizes:
            with pytest.raises(ValueError, match="block"):
                content.decode(kernels, frozen(block[:size]))
        for more in (1, 2, 3, 64):
            with pytest.raises(ValueError, match="size"):
                content.decode(kernels, frozen(np.append(block, np.zeros(more, np.uint8))))


def test_every_bit_flip_of_a_small_block_is_refused_or_reads_as_something_else() -> None:
    block = SMALL.encode(REFERENCE)
    refused = 0
    for bit in range(8 * block.size):
        damaged = block.copy()
        damaged[bit // 8] ^= 1 << (bit % 8)
        refused += check_damaged(SMALL, damaged)
    assert refused > 0.99 * 8 * block.size, "the words and states that are left over find nearly all damage"


@backends
@pytest.mark.parametrize(
    ("offset", "value"),
    [(0, 0), (0, 2), (1, 1), (1, 2), (1, 3), (2, 14), (2, 16), (3, 1), (4, 21), (7, 1), (8, 32), (11, 1), (15, 255)],
)
def test_a_header_that_is_not_what_the_caller_expects_is_refused(kernels: Kernels, offset: int, value: int) -> None:
    block = SMALL.encode(REFERENCE)
    block[offset] = value
    with pytest.raises(ValueError, match="block"):
        SMALL.decode(kernels, block)


@backends
def test_a_block_of_another_shape_or_alphabet_is_refused(kernels: Kernels) -> None:
    block = SMALL.encode(REFERENCE)
    for other in (sample(21, 33, 16), sample(20, 34, 16), sample(20, 33, 17), sample(20, 33, 15), sample(33, 20, 16)):
        with pytest.raises(ValueError, match="header"):
            other.decode(kernels, block)


@backends
def test_more_or_fewer_words_than_the_symbols_need_are_refused(kernels: Kernels) -> None:
    block = SMALL.encode(REFERENCE)
    (words,) = block[12:16].view("<u4")
    for count in (0, 1, words - 1, words + 1, words + 33):
        changed = np.zeros(block.size + 2 * (int(count) - int(words)), np.uint8)
        kept = min(block.size, changed.size)
        changed[:kept] = block[:kept]
        changed[12:16] = np.array([count], "<u4").view(np.uint8)
        with pytest.raises(ValueError, match=r"words|end where"):
            SMALL.decode(kernels, changed)


@backends
@pytest.mark.parametrize("state", [0, 1, 0xFFFF])
def test_a_state_below_the_interval_is_refused(kernels: Kernels, state: int) -> None:
    for lane in (0, 31):
        block = SMALL.encode(REFERENCE)
        block[16 + 4 * lane : 20 + 4 * lane] = np.array([state], "<u4").view(np.uint8)
        with pytest.raises(ValueError, match="state"):
            SMALL.decode(kernels, block)


@backends
def test_an_idle_lane_must_stay_as_it_began(kernels: Kernels) -> None:
    content = sample(20, 30, 16)
    block = content.encode(REFERENCE)
    block[16 + 4 * 31] = 1
    with pytest.raises(ValueError, match="end where"):
        content.decode(kernels, block)


def test_other_tables_do_not_crash() -> None:
    block = WIDE.encode(REFERENCE)
    others = [sample(66, 128, 64, seed=seed) for seed in range(10, 20)]
    assert all(check_damaged(other, block) for other in others)


@settings(deadline=None, max_examples=400)
@given(data=st.data())
def test_random_states_and_words_under_a_sound_header(data: st.DataObject) -> None:
    content = SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)), "sample")]
    block = content.encode(REFERENCE)
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32), "seed"))
    begin = data.draw(st.integers(16, block.size - 1), "begin")
    end = data.draw(st.integers(begin, block.size), "end")
    block[begin:end] = rng.integers(0, 256, end - begin)
    check_damaged(content, block)


@settings(deadline=None, max_examples=400)
@given(garbage=st.binary(max_size=600), name=st.sampled_from(sorted(SAMPLES)))
def test_garbage_is_refused(garbage: bytes, name: str) -> None:
    assert outcomes(SAMPLES[name], np.frombuffer(garbage, np.uint8)) == {None}


@pytest.mark.parametrize("seed", range(8))
def test_mutations(seed: int) -> None:
    """300 a seed: flips, bytes, swapped ranges, and numbers of words that the header declares."""
    rng = np.random.default_rng(seed)
    contents = list(SAMPLES.values())
    blocks = [content.encode(REFERENCE) for content in contents]
    for _ in range(300):
        which = int(rng.integers(len(contents)))
        block = blocks[which].copy()
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(block.size))
            match int(rng.integers(4)):
                case 0:
                    block[at] ^= 1 << int(rng.integers(8))
                case 1:
                    block[at] = rng.integers(256)
                case 2:
                    block[16:] = np.roll(block[16:], 2 * int(rng.integers(1, 50)))
                case _:
                    words = max(0, int(block[12:16].view("<u4")[0]) + int(rng.integers(-3, 4)))
                    resized = np.zeros(max(0, block.size + 2 * int(rng.integers(-3, 4))), np.uint8)
                    kept = min(resized.size, block.size)
                    resized[:kept] = block[:kept]
                    resized[12:16] = np.array([words], "<u4").view(np.uint8)
                    block = resized
        check_damaged(contents[which], block)


@backends
def test_arguments_that_do_not_fit_are_refused(kernels: Kernels) -> None:
    symbols, tables, ids = SMALL.symbols, SMALL.tables, SMALL.table_ids
    block = SMALL.encode(REFERENCE)
    contexts = np.zeros_like(symbols)
    refused = [
        lambda: kernels.rans_encode(symbols + np.uint8(16), tables, ids),
        lambda: kernels.rans_encode(symbols, tables, ids[:, :-1].copy()),
        lambda: kernels.rans_encode(symbols, tables, ids[:0]),
        lambda: kernels.rans_encode(symbols, tables, ids + np.uint8(5)),
        lambda: kernels.rans_encode(symbols, tables, ids, contexts[:-1]),
        lambda: kernels.rans_encode(symbols, tables, ids, contexts + np.uint8(1)),
        lambda: kernels.rans_encode(symbols[:0], tables, ids),
        lambda: kernels.rans_encode(symbols[:, :0].copy(), tables, ids[:, :0].copy()),
        lambda: kernels.rans_decode(block, 0, 33, tables, ids),
        lambda: kernels.rans_decode(block, 20, -1, tables, ids),
        lambda: kernels.rans_decode(block, 20, 1 << 32, tables, ids),
        lambda: kernels.rans_decode(block, 20, 34, tables, ids),
        lambda: kernels.rans_decode(block, 20, 33, tables, ids + np.uint8(5)),
        lambda: kernels.rans_decode(block, 20, 33, tables, ids, contexts[:-1]),
        lambda: kernels.rans_decode(block, 20, 33, tables, ids, contexts + np.uint8(1)),
    ]
    for call in refused:
        with pytest.raises(ValueError, match="expected"):
            call()


@backends
def test_arrays_of_another_dtype_are_refused(kernels: Kernels) -> None:
    symbols, tables, ids = SMALL.symbols, SMALL.tables, SMALL.table_ids
    wrong = symbols.astype(np.int32)
    with pytest.raises(TypeError):
        kernels.rans_encode(wrong, tables, ids)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.rans_encode(symbols, tables, ids.astype(np.int64))  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.rans_encode(symbols, tables, ids, wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        kernels.rans_decode(SMALL.encode(REFERENCE).view(np.int8), 20, 33, tables, ids)  # type: ignore[arg-type]


@backends
def test_inputs_are_left_alone_and_results_are_the_callers(kernels: Kernels) -> None:
    symbols = frozen(TERNARY.symbols)
    assert TERNARY.contexts is not None
    block = kernels.rans_encode(symbols, TERNARY.tables, frozen(TERNARY.table_ids), frozen(TERNARY.contexts))
    assert block.flags.writeable
    assert block.flags.c_contiguous
    decoded = TERNARY.decode(kernels, frozen(block))
    assert decoded.flags.writeable
    assert not np.shares_memory(decoded, symbols)


def test_an_instruction_set_that_is_none_is_refused() -> None:
    native = pytest.importorskip("kvquilt_kernels.native")
    with pytest.raises(ValueError, match="expected one of"):
        native.NativeKernels("sse9")
    names = native.instruction_sets()
    assert names[-1] == "portable"
    assert native.NativeKernels().isa == names[0]
    assert set(names) <= {"avx512", "avx2", "portable"}
