"""Mutated profile files: one that is accepted is a whole profile, and everything else is an IntegrityError."""

import json
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kvquilt_codec.errors import IntegrityError
from kvquilt_codec.profile import Profile, file
from tests.codec.profiles import make_profile
from tests.hostile import mutations
from tests.hostile.subjects import SHAPES, limited_memory

VALID = [
    file.dump(make_profile(SHAPES, history=2, distance=1.0)),
    file.dump(make_profile(SHAPES, history=0, quality_layers=1, seed=1)),
]
MUTATIONS, BATCHES = 1_000, 2

batches = pytest.mark.parametrize("batch", range(BATCHES))


def check_whole(profile: Profile) -> None:
    """It is written again as it was read, and holds numbers only."""
    again = file.load(file.dump(profile))
    assert file.dump(again) == file.dump(profile)
    for layer in profile.layers:
        channels = layer.channels
        assert layer.basis.shape == (channels, channels)
        for matrix in (layer.mean, layer.weight, layer.basis, layer.predictor):
            assert matrix is None or np.isfinite(matrix).all()
    for quality in profile.quality:
        for layer, ids in zip(profile.layers, quality.table_ids, strict=True):
            assert ids.shape[1] == layer.channels
            assert int(ids.max()) < quality.tables.count


@batches
def test_a_mutated_file_is_a_whole_profile_or_an_integrity_error(batch: int) -> None:
    seen: Counter[str] = Counter()
    with limited_memory():
        for number in range(MUTATIONS):
            rng = random.Random(f"profile {batch} {number}")
            valid = rng.choice(VALID)
            data = mutations.mutated(valid, rng, VALID)
            if data not in VALID:
                with pytest.raises(IntegrityError):
                    file.load(data, file.digest(valid))
            try:
                profile = file.load(data)
            except IntegrityError:
                seen["refused"] += 1
                continue
            check_whole(profile)
            seen["read"] += 1
    assert seen.total() == MUTATIONS
    assert min(seen["refused"], seen["read"]) > 0


def lying(valid: bytes, rng: random.Random) -> bytes:
    """A file whose parts fit together in form: names, types, shapes, offsets or facts are others."""
    size = int.from_bytes(valid[:8], "little")
    header: dict[str, Any] = json.loads(valid[8 : 8 + size])
    tensors = valid[8 + size :]
    facts: dict[str, Any] = json.loads(header["__metadata__"]["kvquilt_profile"])
    names = sorted(name for name in header if name != "__metadata__")
    name, other = rng.choice(names), rng.choice(names)
    what = rng.randrange(8)
    if what == 0:
        header[name]["dtype"] = rng.choice(["F16", "F32", "F64", "BF16", "U8", "U16", "I64", "BOOL", "X"])
    elif what == 1:
        header[name]["shape"] = rng.choice([[], [0], [1, 1], header[other]["shape"], [2**40, 2**40], [-1]])
    elif what == 2:
        header[name]["data_offsets"] = rng.choice([[0, 0], [0, 2**60], [5, 1], header[other]["data_offsets"], [-1, 1]])
    elif what == 3:
        header[name], header[other] = header[other], header[name]
    elif what == 4:
        header[rng.choice(["0.extra", "9.mean", "quality.3.frequencies", "x" * 1000])] = header.pop(name)
    elif what == 5:
        facts[rng.choice([*facts, "colour"])] = rng.choice([*mutations.WRONG, 2, 4, [{}], [1]])
    elif what == 6:
        rule = {"layer": rng.choice([-1, 0, 1, 2, 99]), "distance": rng.choice([-1.0, 0.5, 1e308]), "colour": 1}
        rule["tokens_per_outlier"] = rng.choice([-1, 0, 1, 2**40])
        facts["outliers"] = [{key: rule[key] for key in list(rule)[: rng.choice([2, 3, 4])]}] * rng.choice([1, 2, 9])
    else:
        damaged = bytearray(tensors)
        rng.choice([mutations.flip_bits, mutations.set_byte, mutations.set_number])(damaged, rng, ())
        tensors = bytes(damaged)
    header["__metadata__"]["kvquilt_profile"] = json.dumps(facts, sort_keys=True)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + tensors


@batches
def test_a_file_that_lies_is_a_whole_profile_or_an_integrity_error(batch: int) -> None:
    seen: Counter[str] = Counter()
    with limited_memory():
        for number in range(MUTATIONS):
            rng = random.Random(f"lying profile {batch} {number}")
            try:
                profile = file.load(lying(rng.choice(VALID), rng))
            except IntegrityError:
                seen["refused"] += 1
                continue
            check_whole(profile)
            seen["read"] += 1
    assert seen.total() == MUTATIONS
    assert min(seen["refused"], seen["read"]) > 0


NESTED = b"[" * 50_000


@settings(deadline=None, max_examples=100)
@given(data=st.binary(max_size=200))
@example(data=b"")
@example(data=b"\xff" * 8)
@example(data=len(NESTED).to_bytes(8, "little") + NESTED)
@example(data=(len(NESTED) + 18).to_bytes(8, "little") + b'{"__metadata__":{}' + NESTED)
@example(data=(30).to_bytes(8, "little") + b'{"__metadata__":{"a":"\\ud800"}}')
def test_any_bytes_at_all_are_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        file.load(data)
