"""Profiles for tests: small, seeded, of any shape."""

import numpy as np

from kvquilt_codec.joint import JointCoder
from kvquilt_codec.profile import LayerTransform, LevelCard, OutlierRule, Profile, QualityTables, file
from kvquilt_codec.profile.types import CONTEXTS
from kvquilt_codec.transform.stages import random_basis
from kvquilt_codec.types import LayerShape
from kvquilt_kernels.entropy import FrequencyTables, frequencies_from_weights
from tests.codec.samples import FINGERPRINT, UNIFORM


def make_profile(
    shapes: tuple[LayerShape, ...] = UNIFORM,
    *,
    history: int = 2,
    quality_layers: int = 3,
    step: float = 0.05,
    distance: float = 1e9,
    seed: int = 0,
) -> Profile:
    """A profile with random bases and weak predictors from `history` layers."""
    rng = np.random.default_rng(seed)
    channels = [layer.kv_heads * (layer.key_dim + layer.value_dim) for layer in shapes]

    def layer(index: int) -> LayerTransform:
        count = channels[index]
        rows = sum(channels[max(0, index - history) : index])
        return LayerTransform(
            rng.standard_normal(count).astype(np.float32) / 4,
            rng.uniform(0.5, 2, count).astype(np.float32),
            random_basis(count, seed + index),
            rng.standard_normal((rows, count)).astype(np.float32) / 8 if rows else None,
        )

    spread = np.abs(np.arange(16) - 7)[None] / np.array([[1.0], [4.0]])
    base = QualityTables(
        FrequencyTables(frequencies_from_weights(np.exp(-spread))),
        tuple(rng.integers(0, 2, (1, count), dtype=np.uint8) for count in channels),
    )
    thirds = FrequencyTables(frequencies_from_weights(np.array([[1.0, 4, 1], [1, 1, 1], [3, 2, 1]])))
    finer = QualityTables(thirds, tuple(rng.integers(0, 3, (CONTEXTS, count), dtype=np.uint8) for count in channels))
    cards = (LevelCard("low", 1, 1.5, 1e-2, 0.9), LevelCard("high", quality_layers, 4.5, 1e-4, 0.99))
    return Profile(
        FINGERPRINT,
        tuple(layer(index) for index in range(len(shapes))),
        step,
        (base, *[finer] * (quality_layers - 1)),
        (OutlierRule(len(shapes) - 1, distance, 256),),
        cards,
        "random numbers",
    )


def make_coder(profile: Profile) -> JointCoder:
    """The profile as a reader has it: written to a file and loaded again."""
    data = file.dump(profile)
    return JointCoder(file.load(data), file.digest(data))
