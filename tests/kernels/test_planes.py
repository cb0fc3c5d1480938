"""Splitting words into byte planes: every backend gives the reference's bytes, and merging undoes it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvquilt_kernels import Kernels, available
from kvquilt_kernels.reference import ReferenceKernels

BACKENDS = list(available().values())
REFERENCE = ReferenceKernels()
WORDS = {2: np.dtype("<u2"), 4: np.dtype("<u4")}

backends = pytest.mark.parametrize("kernels", BACKENDS, ids=lambda kernels: kernels.name)
widths = pytest.mark.parametrize("width", [2, 4])


def test_the_reference_is_always_there_and_the_fastest_comes_first() -> None:
    names = list(available())
    assert names[-1] == "reference", "the backend of last resort"
    assert names in (["native", "reference"], ["reference"])


@backends
@pytest.mark.parametrize(
    ("words", "width", "planes"),
    [
        # 0x3f80 is bfloat16 1.0, 0xbf80 is -1.0: rotated left by one, 0x7f00 and 0x7f01.
        ("803f80bf", 2, "00017f7f"),
        # 0x3f800000 is float32 1.0.
        ("0000803f", 4, "0000007f"),
        # The sign bit alone (-0.0) becomes the lowest bit.
        ("00800080", 2, "01010000"),
        ("00000080", 4, "01000000"),
        ("", 2, ""),
        ("", 4, ""),
    ],
)
def test_planes_of_known_words(kernels: Kernels, words: str, width: int, planes: str) -> None:
    given_words = np.frombuffer(bytes.fromhex(words), np.uint8)
    assert kernels.split_planes(given_words, width).tobytes().hex() == planes


@backends
@widths
@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17, 63, 64, 65, 1000])
@pytest.mark.parametrize("kind", ["zeros", "ones", "random"])
def test_every_backend_gives_the_bytes_of_the_reference(kernels: Kernels, width: int, count: int, kind: str) -> None:
    fill = {
        "zeros": np.zeros(count * width, np.uint8),
        "ones": np.full(count * width, 255, np.uint8),
        "random": np.random.default_rng(count).integers(0, 256, count * width, dtype=np.uint8),
    }[kind]
    planes = kernels.split_planes(fill, width)
    assert planes.tobytes() == REFERENCE.split_planes(fill, width).tobytes()
    assert kernels.merge_planes(planes, width).tobytes() == fill.tobytes()
    assert kernels.merge_planes(fill, width).tobytes() == REFERENCE.merge_planes(fill, width).tobytes()


@widths
def test_every_sixteen_bit_pattern_survives(width: int) -> None:
    words = np.arange(1 << 16, dtype=WORDS[width]) * (1 if width == 2 else 65_537)
    raw = np.ascontiguousarray(words).view(np.uint8)
    for kernels in BACKENDS:
        assert np.array_equal(kernels.merge_planes(kernels.split_planes(raw, width), width), raw), kernels.name


@settings(deadline=None)
@given(data=st.binary(max_size=512), width=st.sampled_from([2, 4]))
def test_split_and_merge_are_inverse_in_every_pair_of_backends(data: bytes, width: int) -> None:
    raw = np.frombuffer(data[: len(data) // width * width], np.uint8)
    planes = {kernels.split_planes(raw, width).tobytes() for kernels in BACKENDS}
    assert len(planes) == 1, "backends differ"
    for kernels in BACKENDS:
        assert kernels.merge_planes(np.frombuffer(next(iter(planes)), np.uint8), width).tobytes() == raw.tobytes()


@settings(deadline=None)
@given(exponents=st.lists(st.integers(1, 254), min_size=1, max_size=64), seed=st.integers(0, 2**32 - 1))
def test_the_last_plane_of_bfloat16_holds_the_exponents(exponents: list[int], seed: int) -> None:
    rest = np.random.default_rng(seed).integers(0, 1 << 8, len(exponents), dtype=np.uint16)
    words = (np.array(exponents, np.uint16) << 7) | (rest & 0x7F) | ((rest >> 7) << 15)
    for kernels in BACKENDS:
        planes = kernels.split_planes(words.astype("<u2").view(np.uint8), 2).reshape(2, -1)
        assert planes[1].tolist() == exponents, kernels.name


@backends
@pytest.mark.parametrize("width", [0, 1, 3, 5, 8])
def test_another_word_width_is_refused(kernels: Kernels, width: int) -> None:
    raw = np.zeros(120, np.uint8)
    for operation in (kernels.split_planes, kernels.merge_planes):
        with pytest.raises(ValueError, match="width of 2 or 4"):
            operation(raw, width)


@backends
@pytest.mark.parametrize(("size", "width"), [(1, 2), (3, 2), (5, 4), (6, 4)])
def test_a_size_that_is_no_multiple_of_the_width_is_refused(kernels: Kernels, size: int, width: int) -> None:
    raw = np.zeros(size, np.uint8)
    for operation in (kernels.split_planes, kernels.merge_planes):
        with pytest.raises(ValueError, match="width"):
            operation(raw, width)


@backends
@widths
def test_results_are_new_arrays_and_the_input_is_left_alone(kernels: Kernels, width: int) -> None:
    raw = np.arange(64, dtype=np.uint8)
    before = raw.copy()
    for operation in (kernels.split_planes, kernels.merge_planes):
        result = operation(raw, width)
        assert not np.shares_memory(result, raw)
        assert np.array_equal(raw, before)
