"""Calibration of tiny random models: shapes, determinism, and inputs that hold nothing."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
import torch

from kvquilt_codec.errors import BadRequestError
from kvquilt_router.calibration import Quality, Text, calibrate
from kvquilt_router.calibration.gather import gather, key_channels
from kvquilt_router.calibration.sensitivity import measure_sensitivity
from kvquilt_router.calibration.texts import Piece
from kvquilt_router.engine.model import prepare
from tests.router.families import SUPPORTED, tiny


@pytest.fixture(autouse=True)
def one_thread():
    """Of work this small, threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Words:
    """A tokenizer: texts are numbers; any other word is one of them too."""

    def __call__(self, text, **_):
        return {"input_ids": [int(word) if word.isdigit() else crc32(word.encode()) % 400 + 3 for word in text.split()]}

    def decode(self, ids):
        return " ".join(map(str, ids))


def numbers(seed, tokens):
    return " ".join(map(str, np.random.default_rng(seed).zipf(1.3, tokens) % 400 + 3))


def load(family):
    model = tiny(*SUPPORTED[family])
    return replace(prepare(model, None, family), tokenizer=Words())


TEXTS = [Text(f"text {seed}", numbers(seed, 150)) for seed in range(6)]


def profile_of(model, **options):
    return calibrate(model, TEXTS, **{"step": 0.2, **options})


def arrays(profile):
    for layer in profile.layers:
        yield from (layer.mean, layer.weight, layer.basis)
        if layer.predictor is not None:
            yield layer.predictor
    for quality in profile.quality:
        yield quality.tables.frequencies
        yield from quality.table_ids


@pytest.mark.parametrize("family", ["llama", "gemma3", "mistral with a window", "cohere2"])
def test_profiles_fit_the_model(family):
    model = load(family)
    profile = profile_of(model, history=2, quality_layers=3)
    profile.check_layout(model.engine.traits.layout)
    assert profile.model_fingerprint == model.fingerprint
    assert [layer.predictor is not None for layer in profile.layers] == [False, True, True, True]
    assert [card.level for card in profile.cards] == ["low", "medium", "high"]
    assert [card.quality_layers for card in profile.cards] == [1, 2, 3]
    bits, kl = zip(*((card.bits_per_element, card.kl) for card in profile.cards), strict=True)
    assert sorted(bits) == list(bits)
    assert sorted(kl, reverse=True) == list(kl)
    for layer in profile.layers:
        assert np.allclose(layer.basis.T @ layer.basis, np.eye(layer.channels), atol=2e-3)


def test_keys_and_values_of_other_sizes():
    model = tiny("LlamaConfig", {"head_dim": 32, "num_key_value_heads": 1, "num_hidden_layers": 2})
    loaded = replace(prepare(model, None, "other"), tokenizer=Words())
    profile_of(loaded, quality_layers=2).check_layout(loaded.engine.traits.layout)


def test_bfloat16_models_calibrate():
    model = tiny("LlamaConfig", {}, torch.bfloat16)
    loaded = replace(prepare(model, None, "half"), tokenizer=Words())
    profile_of(loaded).check_layout(loaded.engine.traits.layout)


def test_the_same_inputs_give_the_same_profile():
    model = load("qwen3")
    first, second = profile_of(model, history=1), profile_of(model, history=1)
    assert first.cards == second.cards
    assert first.outliers == second.outliers
    assert all(np.array_equal(a, b) for a, b in zip(arrays(first), arrays(second), strict=True))


def test_the_finest_level_meets_its_target():
    profile = profile_of(load("llama"), step=None, kl_target=1e-2)
    assert 1e-3 < profile.cards[-1].kl <= 1e-2


def test_few_tokens_are_coded_layer_by_layer():
    assert all(layer.predictor is None for layer in profile_of(load("llama")).layers)


@pytest.mark.parametrize("history", [0, 2])
def test_dead_channels_and_dead_layers_give_finite_profiles(history):
    model = tiny("LlamaConfig", {})
    with torch.no_grad():
        for index, layer in enumerate(model.model.layers):
            layer.self_attn.k_proj.weight[:9] = 0
            layer.self_attn.v_proj.weight[3:5] = 0
            if index in (1, 2):
                layer.self_attn.k_proj.weight.zero_()
                layer.self_attn.v_proj.weight.zero_()
    profile = profile_of(replace(prepare(model, None, "dead"), tokenizer=Words()), history=history)
    assert all(np.isfinite(array).all() for array in arrays(profile))
    assert all(np.isfinite((card.bits_per_element, card.kl)).all() for card in profile.cards)


def test_a_model_that_ignores_its_context_still_has_weights():
    model = tiny("LlamaConfig", {})
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    profile = profile_of(replace(prepare(model, None, "deaf"), tokenizer=Words()))
    assert all((layer.weight == 1).all() for layer in profile.layers)


def test_channels_that_nothing_depends_on_weigh_least():
    model = tiny("LlamaConfig", {})
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[:, :4] = 0  # what reads the first values of the first query head
            layer.self_attn.o_proj.weight[:, model.config.head_dim :][:, :4] = 0
    loaded = replace(prepare(model, None, "deaf channels"), tokenizer=Words())
    pieces = [Piece(loaded.tokenise(text.content)) for text in TEXTS[:3]]
    sensitivity = measure_sensitivity(loaded.engine, pieces)
    keys = key_channels(loaded.engine.traits.layout, 0)
    for weights in sensitivity.weights():
        assert (weights[keys : keys + 4] < weights[keys + 4 :].min()).all()


def test_sensitivity_is_zero_outside_of_a_window_only():
    engine = load("gemma3").engine  # its first and third layer have a window of 24 tokens
    piece = Piece(np.random.default_rng(0).integers(3, 400, 160).astype(np.uint32))
    sensitivity = measure_sensitivity(engine, [piece])
    (table,) = sensitivity.texts
    assert not table[: 120 - 24, (0, 2)].any()
    assert (table[120 - 22 :, (0, 2)] > 0).all()
    assert (table[:, (1, 3)] > 0).all()
    assert all((weights > 0).all() for weights in sensitivity.weights())


def test_untouched_context_scores_as_a_full_prefill():
    model = load("gemma3")
    pieces = [Piece(model.tokenise(text.content)) for text in TEXTS[:2]]
    gathered = gather(model.engine, [piece.context for piece in pieces])
    measured = Quality(model, pieces).measure(gathered.text(number) for number in range(2))
    assert measured.kl < 1e-6
    assert measured.top1_agreement > 0.98


def test_quality_wants_a_context_for_every_piece():
    model = load("llama")
    pieces = [Piece(model.tokenise(text.content)) for text in TEXTS[:2]]
    gathered = gather(model.engine, [piece.context for piece in pieces])
    with pytest.raises(BadRequestError, match="2 contexts"):
        Quality(model, pieces).measure([gathered.text(0)])


def test_progress_is_told_and_ends_the_work():
    stages = []

    class StopError(Exception):
        pass

    def progress(stage, done, total):
        stages.append(stage)
        if stage == "reference":
            raise StopError

    with pytest.raises(StopError):
        profile_of(load("llama"), progress=progress)
    assert list(dict.fromkeys(stages)) == ["prefill", "prefill of held-out texts", "sensitivity", "reference"]


@pytest.mark.parametrize(
    "options", [{"quality_layers": 0}, {"quality_layers": 4}, {"history": 3}, {"kl_target": 0.0}], ids=str
)
def test_bad_arguments_are_refused(options):
    with pytest.raises(BadRequestError):
        profile_of(load("llama"), **options)
