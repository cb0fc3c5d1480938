"""Whether the served model has its codec profile and its gate."""

from kvquilt.calibrating import calibrate_command
from kvquilt.checks import Finding, Outcome, SkippedError, promise
from kvquilt.doctoring.types import Patient
from kvquilt.states import ModelInfo
from kvquilt.verifying.reaching import gate_of


async def profile(patient: Patient) -> Finding:
    """Each served model has its codec profile at hand."""
    expected = promise(profile)
    told, failed = [], False
    without: ModelInfo | None = None
    for model in patient.known.models:
        if model.profile is None:
            without = model
            told.append(f"{model.name}: none: levels lossless and high")
        elif model.profile.miss_reason:
            failed = True
            told.append(f"{model.name}: {model.profile.digest[:16]}... is not at hand ({model.profile.miss_reason})")
        else:
            told.append(f"{model.name}: {model.profile.digest[:16]}..., {len(model.profile.levels)} levels")
    if failed:
        return Finding(Outcome.FAILED, expected, "; ".join(told), "`kvquilt profile put FILE` stores it on the nodes")
    advice = f"`{calibrate_command(without.layout.data_type)}`, then set router.profile" if without is not None else ""
    outcome = Outcome.PASSED if without is None else Outcome.WARNED
    return Finding(outcome, expected, "; ".join(told), advice)


async def gate(patient: Patient) -> Finding:
    """Each served model has a gate, or none and is reused in its exact context only."""
    known = patient.known
    found, missing, advice = [], [], ""
    for model in known.models:
        try:
            found.append((model.name, gate_of(known, model)))
        except SkippedError as skipped:
            missing.append(f"{model.name}: {skipped.reason}")
            advice = skipped.advice
    wrong = [(name, one) for name, one in found if one.outcome is Outcome.FAILED]
    if wrong:
        return Finding(Outcome.FAILED, wrong[0][1].expected, f"{wrong[0][0]}: {wrong[0][1].got}", wrong[0][1].advice)
    got = "; ".join([*missing, *(f"{name}: {one.got}" for name, one in found)])
    outcome = Outcome.WARNED if missing else Outcome.PASSED
    return Finding(outcome, promise(gate), got, advice)
