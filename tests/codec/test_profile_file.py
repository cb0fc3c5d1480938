"""Profile files: what is written comes back, rounded once; damage and lies are refused."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from kvquilt_codec.errors import BadRequestError, IntegrityError
from kvquilt_codec.profile import OutlierRule, Profile, file
from tests.codec.profiles import make_profile
from tests.codec.samples import UNEVEN

PROFILE = make_profile(UNEVEN)
DATA = file.dump(PROFILE)


def test_a_profile_comes_back_with_matrices_as_float16() -> None:
    loaded = file.load(DATA, file.digest(DATA))
    for name in ("model_fingerprint", "step", "outliers", "cards", "texts"):
        assert getattr(loaded, name) == getattr(PROFILE, name)
    for got, made in zip(loaded.layers, PROFILE.layers, strict=True):
        assert got.mean.tobytes() == made.mean.tobytes()
        assert got.weight.tobytes() == made.weight.tobytes()
        assert got.basis.tobytes() == made.basis.astype(np.float16).astype(np.float32).tobytes()
        assert (got.predictor is None) == (made.predictor is None)
    for quality, made_quality in zip(loaded.quality, PROFILE.quality, strict=True):
        assert quality.tables.frequencies.tolist() == made_quality.tables.frequencies.tolist()
        for ids, made_ids in zip(quality.table_ids, made_quality.table_ids, strict=True):
            assert ids.tolist() == made_ids.tolist()


def test_writing_what_was_loaded_gives_the_same_bytes() -> None:
    assert file.dump(file.load(DATA)) == DATA == file.dump(make_profile(UNEVEN))


def test_other_bytes_than_the_digests_are_refused() -> None:
    with pytest.raises(IntegrityError, match="digest") as caught:
        file.load(DATA, file.digest(DATA + b" "))
    assert caught.value.reason == "checksum"


@pytest.mark.parametrize("size", [0, 7, 8, 100, len(DATA) // 2, len(DATA) - 1])
def test_a_cut_file_is_refused(size: int) -> None:
    with pytest.raises(IntegrityError):
        file.load(DATA[:size])


@settings(max_examples=300)
@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_an_integrity_error_or_a_sound_profile(place: int, change: int) -> None:
    data = bytearray(DATA)
    data[place] ^= change
    try:
        profile = file.load(bytes(data))
    except IntegrityError:
        return
    assert isinstance(profile, Profile)


@pytest.mark.parametrize("header", [b"{}", b"[]", b'{"__metadata__":{}}', b'{"__metadata__":{"kvquilt_profile":"{}"}}'])
def test_safetensors_that_are_no_profile_are_refused(header: bytes) -> None:
    with pytest.raises(IntegrityError):
        file.load(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("0.mean", lambda a: a[:-1]),
        ("0.mean", lambda a: a * np.float32("nan")),
        ("1.weight", lambda a: -a),
        ("1.weight", lambda a: a * 0),
        ("1.basis", lambda a: a[:, :-1].copy()),
        ("1.basis", lambda a: a.astype(np.float32)),
        ("1.predictor", lambda a: a[:-1]),
        ("1.predictor", lambda a: a * np.float16("inf")),
        ("quality.0.frequencies", lambda a: a + 1),
        ("quality.0.frequencies", lambda a: a[:, :-1].copy()),
        ("quality.1.frequencies", lambda a: a.astype(np.int32)),
        ("quality.0.0.table_ids", lambda a: a + 9),
        ("quality.1.2.table_ids", lambda a: a[:4]),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_tensors_that_cannot_be_are_refused(name: str, change: object) -> None:
    arrays = load(DATA)
    arrays[name] = change(arrays[name])  # type: ignore[operator]
    with pytest.raises(IntegrityError):
        file.load(save(arrays, {"kvquilt_profile": file._metadata(DATA).decode()}))


@pytest.mark.parametrize("name", ["2.mean", "quality.2.frequencies", "quality.0.1.table_ids"])
def test_missing_and_further_tensors_are_refused(name: str) -> None:
    metadata = {"kvquilt_profile": file._metadata(DATA).decode()}
    arrays = load(DATA)
    array = arrays.pop(name)
    with pytest.raises(IntegrityError):
        file.load(save(arrays, metadata))
    with pytest.raises(IntegrityError, match="further"):
        file.load(save({**arrays, name: array, "more": array}, metadata))


@pytest.mark.parametrize(
    "changes",
    [
        {"step": 0.0},
        {"step": float("nan")},
        {"step": 1e9},
        {"quality": ()},
        {"quality": PROFILE.quality[::-1]},
        {"outliers": (OutlierRule(99, 1.0, 256),)},
        {"outliers": (OutlierRule(0, 1.0, 0),)},
        {"outliers": (OutlierRule(0, 1.0, 256),) * 5},
        {"layers": PROFILE.layers[:2]},
    ],
)
def test_profiles_whose_parts_do_not_fit_are_refused(changes: dict[str, object]) -> None:
    with pytest.raises(BadRequestError, match="expected"):
        dataclasses.replace(PROFILE, **changes)  # type: ignore[arg-type]
