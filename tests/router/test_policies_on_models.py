"""Every policy with real looks into models of several families."""

import numpy as np
import pytest

from kvquilt_router.policies import POLICIES, policy_by_name
from kvquilt_router.policies.deviation import schedule
from tests.router.assemblies import assembled

FAMILIES = ["llama", "qwen3", "gemma3", "smollm3", "mistral with a window", "olmo2"]
EXACT = 48
"""The prefix and the first document."""


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", [name for name in POLICIES if name != "full"])
def test_exact_tokens_are_never_chosen_and_stay_as_they_are(family, name):
    _, _, assembly = assembled(family)
    problem = assembly.problem(0.2)
    before = [(layer.keys[:, :, :EXACT].clone(), layer.values[:, :, :EXACT].clone()) for layer in assembly.kv.layers]
    selection = assembly.select(policy_by_name(name), problem)
    again = assembled(family)[2]
    assert again.select(policy_by_name(name), problem).positions.tolist() == selection.positions.tolist()
    counts = {
        "none": 0,
        "anchors": len(problem.candidates),
        "deviation": schedule(problem.budget, len(problem.candidates), problem.layers)[0],
    }
    assert len(selection.positions) == counts.get(name, problem.budget)
    assert selection.positions.min(initial=EXACT) >= EXACT
    assembly.compute(selection, lambda *_: None)
    looked = 2 if name in ("deviation", "dual-stage") else 0  # these layers are computed for the whole context
    for layer, (keys, values) in list(zip(assembly.kv.layers, before, strict=True))[looked:]:
        assert np.array_equal(layer.keys[:, :, :EXACT].numpy(), keys.numpy())
        assert np.array_equal(layer.values[:, :, :EXACT].numpy(), values.numpy())


@pytest.mark.parametrize("family", FAMILIES)
def test_everything_chosen_is_a_full_prefill(family):
    engine, prompt, assembly = assembled(family)
    assembly.compute(assembly.select(policy_by_name("full"), assembly.problem(0.0)), lambda *_: None)
    for got, expected in zip(assembly.kv.layers, engine.prefill(prompt.token_ids[:-1]), strict=True):
        assert float((got.keys - expected.keys).norm() / expected.keys.norm()) < 1e-4
        assert float((got.values - expected.values).norm() / expected.values.norm()) < 1e-4
